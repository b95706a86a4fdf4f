// Chart draws numbers over the last minutes as lines, on a canvas.

import { color, onScheme } from "./ui.js";

/**
 * A line has a name, a custom property of the style sheet as its color, and points {at, value} in
 * order of time (ms). A mark is a moment {at, color} that is drawn as an upright line.
 */
export class Chart {
  #canvas;
  #write;
  #area;
  span;
  lines = [];
  marks = [];

  /** span is how many ms are shown, whole minutes; write writes a value of the scale; area fills below the lines. */
  constructor(canvas, span, write, area = false) {
    this.#canvas = canvas;
    this.span = span;
    this.#write = write;
    this.#area = area;
    new ResizeObserver(() => this.draw()).observe(canvas);
    onScheme(() => this.draw());
  }

  /** draw draws everything, with now (ms) at the right edge. */
  draw(now = Date.now()) {
    const canvas = this.#canvas;
    const { clientWidth: w, clientHeight: h } = canvas;
    if (w === 0 || h === 0) return;
    const scale = Math.min(devicePixelRatio || 1, 2);
    if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
      canvas.width = Math.round(w * scale);
      canvas.height = Math.round(h * scale);
    }
    const c = canvas.getContext("2d");
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, w, h);
    const from = now - this.span;
    let top = 0;
    for (const line of this.lines) for (const p of line.points) if (p.at >= from && p.value > top) top = p.value;
    top = round(top);
    const left = 44;
    const right = w - 6;
    const base = h - 20;
    const head = 10;
    const x = (at) => left + ((at - from) / this.span) * (right - left);
    const y = (value) => base - (value / top) * (base - head);

    c.font = `11px ${color("--sans") || "sans-serif"}`;
    c.fillStyle = color("--muted");
    c.strokeStyle = color("--line");
    c.lineWidth = 1;
    c.textBaseline = "middle";
    c.textAlign = "right";
    for (const share of [0, 0.5, 1]) {
      const at = Math.round(y(top * share)) + 0.5;
      c.beginPath();
      c.moveTo(left, at);
      c.lineTo(right, at);
      c.stroke();
      const label = this.#write(top * share);
      // Half of a whole number may have no label of its own: 2.5 samples would be called 3.
      if (Number(label.replaceAll(",", "")) === top * share) c.fillText(label, left - 6, at);
    }
    c.textBaseline = "alphabetic";
    const minutes = this.span / 60_000;
    const every = [1, 2, 5, 10].find((n) => ((right - left) / minutes) * n > 58) ?? minutes;
    for (let i = 0; i <= minutes; i += every) {
      c.textAlign = i === 0 ? "right" : i === minutes ? "left" : "center";
      c.fillText(i === 0 ? "now" : `−${i} min`, x(now - i * 60_000), h - 4);
    }

    c.save();
    c.beginPath();
    c.rect(left, 0, right - left, base + 1);
    c.clip();
    for (const mark of this.marks) {
      if (mark.at < from) continue;
      c.strokeStyle = color(mark.color);
      c.setLineDash([3, 3]);
      c.beginPath();
      c.moveTo(x(mark.at), head - 6);
      c.lineTo(x(mark.at), base);
      c.stroke();
    }
    c.setLineDash([]);
    c.lineJoin = "round";
    for (const line of this.lines) {
      c.strokeStyle = color(line.color);
      c.fillStyle = c.strokeStyle;
      c.lineWidth = 2;
      for (const points of runs(line.points, from - 2_000)) {
        const stroke = new Path2D();
        for (const p of points) stroke.lineTo(x(p.at), y(p.value));
        if (this.#area) {
          const fill = new Path2D(stroke);
          fill.lineTo(x(points.at(-1).at), base);
          fill.lineTo(x(points[0].at), base);
          c.globalAlpha = 0.16;
          c.fill(fill);
          c.globalAlpha = 1;
        }
        c.stroke(stroke);
      }
    }
    c.restore();
  }
}

const gap = 10_000; // ms without a point; then nothing is known, and no line is drawn

// runs cuts points into runs without gaps, from a moment on.
function runs(points, from) {
  const all = [];
  let last = null;
  for (const p of points) {
    if (p.at < from) continue;
    if (last === null || p.at - last.at > gap) all.push([]);
    all.at(-1).push(p);
    last = p;
  }
  return all;
}

// round returns the end of a scale: 1, 2 or 5 times a power of ten, and at least 1.
function round(n) {
  if (n <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(n));
  for (const step of [1, 2, 5, 10]) if (step * power >= n) return step * power;
  return 10 * power;
}

// Stage draws devices as dots on pads, and lets them hop from pad to pad.
//
// All dots are on one canvas that lies over the pads, so ten thousand devices cost no more elements
// than one. The canvas draws only while something moves.

import { attribute, color, onScheme, still } from "./ui.js";

const hopTime = 720; // ms
const hopSpread = 260; // ms by which hops of the same moment differ
const slideTime = 260; // ms
const mostPixels = 12_000_000;
const golden = Math.PI * (3 - Math.sqrt(5));

/** Pad is one place on the stage. Dots keep their slots, so that nobody moves when another leaves. */
class Pad {
  constructor(element) {
    this.element = element;
    this.slots = []; // dots; undefined is free
    this.free = []; // numbers of free slots
    this.size = 0;
    this.box = { x: 0, y: 0, w: 0, h: 0 };
    this.room = 0; // for how many dots the spacing is made
  }

  put(dot) {
    const slot = this.free.length > 0 ? this.free.pop() : this.slots.length;
    this.slots[slot] = dot;
    dot.slot = slot;
    this.size++;
  }

  take(dot) {
    this.slots[dot.slot] = undefined;
    this.free.push(dot.slot);
    this.size--;
    if (this.size === 0) {
      this.slots = [];
      this.free = [];
    } else if (this.slots.length > 16 && this.size * 4 < this.slots.length) {
      this.slots = this.slots.filter((d) => d !== undefined);
      this.slots.forEach((d, i) => (d.slot = i));
      this.free = [];
      this.room = 0; // place them anew
    }
  }

  // fit makes the spacing for the dots of the pad, and returns whether it has changed.
  fit() {
    const least = 12; // a single device does not fill its pad
    let room = Math.max(this.room, least);
    while (room < this.slots.length) room *= 2;
    while (room > least && room / 4 >= this.slots.length) room /= 2;
    const changed = room !== this.room;
    this.room = room;
    const { w, h } = this.box;
    const wide = Math.max(1, Math.min(3, w / Math.max(h, 1)));
    const reach = Math.max(4, Math.min(h / 2, w / wide / 2) - 5);
    this.step = reach / Math.sqrt(room);
    this.wide = wide;
    this.radius = Math.max(1, Math.min(6.5, 0.55 * this.step * Math.sqrt(wide)));
    return changed;
  }

  spot(slot) {
    const r = this.step * Math.sqrt(slot + 0.5);
    const { x, y, w, h } = this.box;
    return { x: x + w / 2 + Math.cos(slot * golden) * r * this.wide, y: y + h / 2 + Math.sin(slot * golden) * r };
  }
}

export class Stage {
  #canvas;
  #area;
  #pads = new Map();
  #dots = new Map();
  #colors = [];
  #moving = new Set();
  #frame = 0;
  #chosen = null;
  #ring = "";
  #ink = "";

  /** area holds the pads, and canvas lies over it. */
  constructor(area, canvas) {
    this.#area = area;
    this.#canvas = canvas;
    new ResizeObserver(() => this.measure()).observe(area);
    onScheme(() => this.#paint());
  }

  /** pad makes an element the place with a name. */
  pad(name, element) {
    this.#pads.set(name, new Pad(element));
  }

  /** drop takes away the place with a name. Dots that still stand there leave the stage. */
  drop(name) {
    for (const dot of this.#pads.get(name).slots) if (dot !== undefined) this.remove(dot.id);
    this.#pads.delete(name);
  }

  /** measure reads where the pads are. Call it when the layout may have changed. */
  measure() {
    const area = this.#area.getBoundingClientRect();
    const { width, height } = area;
    // Browsers bound the pixels of a canvas, and a phone shows many hubs below each other.
    const scale = Math.min(devicePixelRatio || 1, 2, Math.sqrt(mostPixels / Math.max(1, width * height)));
    if (this.#canvas.width !== Math.round(width * scale) || this.#canvas.height !== Math.round(height * scale)) {
      this.#canvas.width = Math.round(width * scale);
      this.#canvas.height = Math.round(height * scale);
    }
    this.scale = scale;
    for (const pad of this.#pads.values()) {
      const b = pad.element.getBoundingClientRect();
      pad.box = { x: b.left - area.left, y: b.top - area.top, w: b.width, h: b.height };
      pad.fit();
      for (const dot of pad.slots) if (dot !== undefined && !this.#moving.has(dot)) Object.assign(dot, pad.spot(dot.slot));
    }
    for (const dot of this.#moving) dot.to = this.#pads.get(dot.pad).spot(dot.slot);
    this.#paint();
  }

  /** place puts a device on a pad. It hops there if it was on another. group chooses its color. */
  place(id, pad, group) {
    let dot = this.#dots.get(id);
    const target = this.#pads.get(pad);
    if (target === undefined) return;
    if (dot === undefined) {
      dot = { id, pad, group, slot: 0, x: 0, y: 0, since: 0, took: 0, lift: 0, from: null, to: null };
      this.#dots.set(id, dot);
      target.put(dot);
      this.#settle(target);
      Object.assign(dot, target.spot(dot.slot));
      this.#wake();
      return;
    }
    dot.group = group;
    if (dot.pad === pad) return;
    const left = this.#pads.get(dot.pad);
    left.take(dot);
    dot.pad = pad;
    target.put(dot);
    this.#settle(left);
    this.#settle(target);
    this.#move(dot, target.spot(dot.slot), hopTime + Math.random() * hopSpread, true);
  }

  /** remove takes a device off the stage. */
  remove(id) {
    const dot = this.#dots.get(id);
    if (dot === undefined) return;
    this.#pads.get(dot.pad).take(dot);
    this.#settle(this.#pads.get(dot.pad));
    this.#moving.delete(dot);
    this.#dots.delete(id);
    this.#wake();
  }

  /** choose marks one device with a ring; null marks none. */
  choose(id) {
    this.#chosen = id;
    this.#wake();
  }

  // settle lets the dots of a pad close up or spread if their spacing has changed.
  #settle(pad) {
    if (!pad.fit()) return;
    for (const dot of pad.slots) {
      if (dot === undefined) continue;
      if (this.#moving.has(dot) && dot.lift > 0) dot.to = pad.spot(dot.slot);
      else this.#move(dot, pad.spot(dot.slot), slideTime, false);
    }
  }

  #move(dot, to, took, hop) {
    if (still()) {
      Object.assign(dot, to);
      this.#moving.delete(dot);
    } else {
      dot.from = { x: dot.x, y: dot.y };
      dot.to = to;
      dot.since = performance.now();
      dot.took = took;
      dot.lift = hop ? 34 + 0.22 * Math.hypot(to.x - dot.x, to.y - dot.y) : 0;
      this.#moving.add(dot);
    }
    this.#wake();
  }

  #wake() {
    if (this.#frame === 0) this.#frame = requestAnimationFrame((now) => this.#tick(now));
  }

  #tick(now) {
    this.#frame = 0;
    for (const dot of this.#moving) {
      const t = Math.min(1, Math.max(0, (now - dot.since) / dot.took));
      const eased = t < 0.5 ? 2 * t * t : 1 - (2 - 2 * t) ** 2 / 2;
      dot.x = dot.from.x + (dot.to.x - dot.from.x) * eased;
      dot.y = dot.from.y + (dot.to.y - dot.from.y) * eased - dot.lift * 4 * eased * (1 - eased);
      if (t === 1) {
        Object.assign(dot, dot.to);
        this.#moving.delete(dot);
      }
    }
    this.#draw();
    attribute(this.#canvas, "data-moving", this.#moving.size);
    if (this.#moving.size > 0) this.#wake();
  }

  // paint reads the colors of the style sheet, and draws.
  #paint() {
    this.#colors = Array.from({ length: 8 }, (_, i) => color(`--hub-${i}`));
    this.#ring = color("--ink");
    this.#ink = color("--surface");
    this.#wake();
  }

  #draw() {
    const c = this.#canvas.getContext("2d");
    c.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    c.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    const paths = this.#colors.map(() => new Path2D());
    const gone = new Path2D();
    for (const dot of this.#dots.values()) {
      const r = this.#pads.get(dot.pad).radius * (this.#moving.has(dot) && dot.lift > 0 ? 1.25 : 1);
      const path = dot.group < 0 ? gone : paths[dot.group % paths.length];
      path.moveTo(dot.x + r, dot.y);
      path.arc(dot.x, dot.y, r, 0, 2 * Math.PI);
    }
    paths.forEach((path, i) => {
      c.fillStyle = this.#colors[i];
      c.fill(path);
    });
    c.fillStyle = this.#ink;
    c.fill(gone);
    c.lineWidth = 1.2;
    c.strokeStyle = this.#ring;
    c.stroke(gone);
    const chosen = this.#dots.get(this.#chosen);
    if (chosen === undefined || this.#dots.size < 2) return;
    c.lineWidth = 2;
    c.strokeStyle = this.#ring;
    c.beginPath();
    c.arc(chosen.x, chosen.y, this.#pads.get(chosen.pad).radius + 3.5, 0, 2 * Math.PI);
    c.stroke();
  }
}

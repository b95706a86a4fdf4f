// The time line of a device's links, as SVG: one bar for each link in the color of its hub, and red
// where there was none.

import { clock } from "./ui.js";

const ns = "http://www.w3.org/2000/svg";
const height = 74;

/** drawTimeline draws the last ms of a history up to now. */
export function drawTimeline(svg, history, ms, now) {
  const width = svg.clientWidth;
  if (width === 0) return;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const from = now - ms;
  const x = (at) => Math.min(width, Math.max(0, ((at - from) / ms) * width));
  const nodes = [];
  const add = (name, attributes, title) => {
    const node = document.createElementNS(ns, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (title !== undefined) {
      const t = document.createElementNS(ns, "title");
      t.textContent = title;
      node.append(t);
    }
    nodes.push(node);
    return node;
  };
  add("rect", { class: "unknown", x: 0, y: 16, width, height: 30, rx: 7 });
  // Before the first known moment nothing is known; from then on a gap is a time without a link.
  const first = history.known ?? now;
  if (x(first) < width) add("rect", { class: "gap", x: x(first), y: 16, width: Math.max(0, width - x(first)), height: 30, rx: 4 }, "no link");
  for (const span of history.spans) {
    const to = span.to ?? now;
    if (to < from) continue;
    const left = x(span.from);
    const hue = history.hubs.indexOf(span.hub) % 8;
    add("rect", { class: `span hue-${hue}`, x: left, y: 16, width: Math.max(1.5, x(to) - left), height: 30 }, `${span.hub}, from ${clock(span.from)} to ${span.to === null ? "now" : clock(span.to)}`);
  }
  for (const move of history.moves) {
    if (move.at < from) continue;
    add("path", { class: "cut", d: `M${x(move.at)} 8v46` }, `${clock(move.at)} ${move.rule} ${move.cause}`);
    add("path", { class: "flag", d: `M${x(move.at) - 5} 3h10l-5 8Z` });
  }
  const steps = width < 480 ? 2 : 4;
  for (let i = 0; i <= steps; i++) {
    const at = from + (ms * i) / steps;
    const label = add("text", { class: "tick", x: x(at), y: 68, "text-anchor": i === 0 ? "start" : i === steps ? "end" : "middle" });
    label.textContent = i === steps ? "now" : clock(at);
  }
  svg.replaceChildren(...nodes);
}

// Small helpers for the DOM, and how numbers and times are written.
//
// Whatever comes from outside (names of devices and hubs, reasons, properties) reaches the page as
// text, by textContent or setAttribute of harmless attributes, and never as markup.

export const byId = (id) => document.getElementById(id);

/** text sets the text of a node, and leaves the node alone if it has that text already. */
export function text(node, value) {
  const s = String(value);
  if (node.textContent !== s) node.textContent = s;
}

/** attribute sets or, for null, removes an attribute. */
export function attribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** make makes an element with a class and children; strings become text. */
export function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** clone copies the one element of a template, and returns it. */
export const clone = (id) => byId(id).content.firstElementChild.cloneNode(true);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const count = (n) => whole.format(n);
export const rate = (n) => (n >= 0.05 && n < 100 ? tenth.format(n) : whole.format(n));

/** plural writes a number with its noun. */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** doing writes a number with its noun and verb: 1 sample waits, 2 samples wait. */
export const doing = (n, noun, does, they) => `${plural(n, noun)} ${n === 1 ? does : they}`;

/** bytes writes a size, such as 1.2 MB. */
export function bytes(n) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
  return i === 0 ? `${count(n)} bytes` : `${tenth.format(n)} ${units[i]}`;
}

/** duration writes seconds in words: 0.31 s, 12 s, 4 min 5 s, 3 h 20 min, 4 d 2 h. */
export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 0.0095) return `${tenth.format(s * 1000)} ms`;
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${(Math.round(s * 100) / 100).toString()} s`;
  const whole = Math.round(s);
  if (whole < 120) return `${whole} s`;
  const two = (a, ua, b, ub) => (b === 0 ? `${a} ${ua}` : `${a} ${ua} ${b} ${ub}`);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return two(minutes, "min", whole % 60, "s");
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return two(hours, "h", minutes % 60, "min");
  return two(Math.floor(hours / 24), "d", hours % 24, "h");
}

const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** clock writes a time of day, with the date if it was not within the last 12 hours. */
export function clock(at) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return "–";
  return Math.abs(Date.now() - date.getTime()) < 43_200_000 ? clockFormat.format(date) : dayFormat.format(date);
}

/** fitting returns the first of some spans that is long enough, else the last. */
export const fitting = (span, spans) => spans.find((s) => s >= span) ?? spans.at(-1);

/** eachFrame calls a function at most once in a frame, however often the returned function is called. */
export function eachFrame(work) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      work();
    });
  };
}

/** still is true while the person wants no motion. */
const motion = matchMedia("(prefers-reduced-motion: reduce)");
export const still = () => motion.matches;

/** onScheme calls a function when light and dark change. */
export const onScheme = (work) => matchMedia("(prefers-color-scheme: dark)").addEventListener("change", work);

/** color returns a custom property of the style sheet, such as --accent. */
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** announce says a sentence to those who hear the page. */
export function announce(sentence) {
  const live = byId("live");
  live.textContent = live.textContent === sentence ? `${sentence}\u00a0` : sentence;
}

/** presence shows whether the server sends events, and the sentence with which it refuses. */
export function presence(up, refusal = "") {
  attribute(byId("server"), "data-up", up);
  text(byId("server-text"), up ? "Live" : refusal === "" ? "Server away" : "No events");
  byId("away").hidden = up || refusal !== "";
  byId("no-events").hidden = refusal === "";
  text(byId("no-events-text"), refusal);
}

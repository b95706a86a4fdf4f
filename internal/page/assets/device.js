// The page of a device. GET /status is the truth. Events say when to ask for it again, and tell what
// has happened before.

import { Chart } from "./chart.js";
import { History } from "./history.js";
import { Log } from "./log.js";
import { askDated, Refresher, Stream } from "./net.js";
import { drawTimeline } from "./timeline.js";
import { announce, attribute, byId, bytes, clock, count, doing, duration, eachFrame, fitting, make, plural, presence, rate, text } from "./ui.js";

const chartSpans = [60_000, 120_000, 300_000, 600_000]; // ms; a picture shows the shortest that fits
const lineSpans = [60_000, 300_000, 1_800_000, 7_200_000, 86_400_000];
const chartSpan = chartSpans.at(-1);

let view = null;
let seen = 0; // when the view was asked for, in ms of this browser
let ahead = 0; // how many ms the device's clock is ahead of the browser's
const history = new History();
const backlog = [];
const rates = [];
const log = new Log("events", "only-loud");

const refresher = new Refresher(async () => {
  const { value, date } = await askDated("GET", "/status");
  if (value === null || typeof value !== "object") return;
  view = value;
  seen = Date.now();
  // The header has whole seconds, so a small difference says nothing.
  ahead = date !== null && Math.abs(date - seen) > 3_000 ? date - seen : 0;
  history.see(view);
  note(backlog, view.outbox.queued);
  note(rates, view.telemetry.perSecond);
  draw();
}, 250);

function note(points, value) {
  points.push({ at: seen, value });
  while (points[0].at < seen - chartSpan - 10_000) points.shift();
}

const now = () => Date.now() + ahead;
const since = (at) => (now() - Date.parse(at)) / 1000;
const lasts = (at) => (since(at) < 1 ? "since just now" : `for ${duration(since(at))}`);
const linked = (v) => v.hub !== "";

// The sentence at the top, and the four answers.

function verdict() {
  const v = view;
  switch (v.state) {
    case "connected":
      return { mood: v.outbox.degraded || !v.clock.trusted ? "warn" : "good", sentence: `Connected to ${v.hub}`, more: `${lasts(v.since)} over ${v.transport}` };
    case "provisional":
      return { mood: "warn", sentence: `Connected to ${v.hub}`, more: `${lasts(v.since)}. The device knows this hub from before; DPS has not confirmed it yet.` };
    case "connecting":
      return { mood: "bad", sentence: "No link", more: `${lasts(v.since)}. The device is trying now.` };
    case "waiting":
      return { mood: "bad", sentence: "No link", more: `${lasts(v.since)}. The device waits for its next try.` };
    case "refused":
      return { mood: "bad", sentence: "The cloud refuses this device", more: `No link ${lasts(v.since)}. The device goes on asking, but a person must act.` };
    case "local":
      return { mood: "good", sentence: "Data flows run without a hub", more: `They have run ${lasts(v.started)}.` };
    case "stopping":
      return { mood: "quiet", sentence: "The device is stopping", more: linked(v) ? "It sends what still waits." : "It has no link." };
    default:
      return { mood: "quiet", sentence: `State: ${v.state}`, more: "" };
  }
}

function answer(id, big, small, mood) {
  const [b, span] = byId(id).querySelector("dd").children;
  text(b, big);
  text(span, small);
  attribute(byId(id), "data-mood", mood);
}

// ticking is what changes with time alone.
function ticking() {
  if (view === null) return;
  const v = view;
  const { mood, sentence: head, more } = verdict();
  text(byId("verdict-text"), head);
  text(byId("verdict-more"), more);
  attribute(byId("verdict"), "data-mood", mood);

  const o = v.outbox;
  const age = o.oldestAgeSeconds + (Date.now() - seen) / 1000;
  if (o.queued === 0) answer("a-oldest", "None", "Nothing waits.", "good");
  else answer("a-oldest", duration(age), `${doing(o.queued, "sample", "waits", "wait")}, ${bytes(o.bytes)}`, linked(v) ? "quiet" : "warn");

  if (linked(v)) answer("a-next", "Not needed", "There is a link.", "good");
  else if (v.nextTry === null) answer("a-next", "Now", "A try is under way.", "quiet");
  else {
    const left = (Date.parse(v.nextTry) - now()) / 1000;
    answer("a-next", left > 0 ? `in ${countdown(left)}` : "Now", `at ${clock(v.nextTry)}`, "quiet");
  }
}

const countdown = (s) => (s < 10 ? `${s.toFixed(1)} s` : duration(s));

const sentence = (s) => s.charAt(0).toUpperCase() + s.slice(1);

// cause says where it happened and what.
const cause = (w) => w.cause || w.signal;

// beside says what fails beside the cause, or which dead hub DPS goes on naming.
function beside(hub, w) {
  if (w.also) return `Also ${w.also}. `;
  if (!hub) return "";
  return w.cause?.startsWith(`${hub}: `) ? "DPS still names this hub. " : `DPS still names ${hub}, which has failed. `;
}

// saysMore is whether an error has more to say than the cause that was made of it.
const saysMore = (w) => w.evidence !== "" && !w.evidence.endsWith(cause(w).split(": ").pop());

function fourAnswers() {
  const v = view;
  const w = v.why;
  const code = byId("a-why").querySelector("code");
  code.hidden = linked(v) || w === null || !saysMore(w);
  text(code, w?.evidence ?? "");
  const reason = w === null ? "" : `${w.rule}: ${w.signal}${w.action ? `; ${w.action}` : ""}`;
  if (linked(v)) answer("a-why", "There is a link", w === null ? "It has never failed." : `The last failure, ${clock(w.at)}, ${reason}`, "good");
  else if (w === null) answer("a-why", "Not known yet", "The device has just begun.", "quiet");
  else answer("a-why", cause(w), `${beside(v.dps.stillNames, w)}At ${clock(w.at)}. More: hubhop explain ${w.rule}`, "bad");

  const advice = [];
  if (v.outbox.degraded) advice.push(`The disk: ${v.outbox.text || "it does not work"}. See to it.`);
  if (!v.clock.trusted) advice.push("This machine's clock is wrong. Set it.");
  if (v.outbox.quarantined > 0) advice.push(`${doing(v.outbox.quarantined, "sample", "was", "were")} set aside, because no hub would take them: hubhop outbox ls --quarantined shows them.`);
  for (const f of v.flows) if (f.fault) advice.push(`The flow ${f.name}: ${f.fault}`);
  if (!linked(v) && v.state !== "stopping" && w?.hint) advice.unshift(sentence(w.hint));
  if (advice.length > 0) answer("a-do", advice[0], advice.slice(1).join(" "), linked(v) ? "warn" : "bad");
  else if (linked(v)) answer("a-do", "Nothing", "All is well.", "good");
  else answer("a-do", "Nothing", "The device goes on trying by itself, and keeps its samples.", "quiet");
}

// The rest.

function rows(body, lists) {
  while (body.children.length < lists.length) body.append(make("tr", ""));
  while (body.children.length > lists.length) body.lastElementChild.remove();
  lists.forEach((cells, i) => {
    const row = body.children[i];
    cells.forEach(([value, className], k) => {
      if (row.children[k] === undefined) row.append(make("td", className ?? ""));
      text(row.children[k], value);
    });
  });
}

function facts() {
  const v = view;
  const list = [
    ["Hub", v.hub || "no link"],
    ["Transport", v.transport],
    ["Failovers", count(v.failovers)],
    ["Registrations with DPS", `${count(v.dps.registrations)}${v.dps.lastAt ? `; a hub named at ${clock(v.dps.lastAt)}` : ""}`],
    ["Samples made", count(v.telemetry.made)],
    ["Sent again", count(v.telemetry.repeated)],
    ["Last sequence number", count(v.outbox.lastSeq)],
    ["Set aside", count(v.outbox.quarantined)],
    ["Disk", v.outbox.degraded ? v.outbox.text || "does not work" : "works"],
    ["Clock", !v.clock.trusted ? "not believed" : v.clock.offsetMs === 0 ? "believed" : `believed, corrected by ${duration(Math.abs(v.clock.offsetMs) / 1000)}`],
    ["Credential", `${v.credential.kind}${v.credential.expires ? `, until ${clock(v.credential.expires)}` : ""}`],
    ["Started", clock(v.started)],
    ["Version", v.version],
  ];
  const into = byId("facts");
  while (into.children.length < list.length * 2) into.append(make("dt", ""), make("dd", ""));
  list.forEach(([name, value], i) => {
    text(into.children[2 * i], name);
    text(into.children[2 * i + 1], value);
  });
}

function moves() {
  byId("no-moves").hidden = history.moves.length > 0;
  const short = (hub) => hub || "–";
  rows(
    byId("moves"),
    history.moves.slice(0, 8).map((m) => [[clock(m.at)], [short(m.from)], [m.to === null ? "none yet" : m.to === m.from ? "the same" : short(m.to)], [[m.rule, m.cause].filter(Boolean).join(": ")], [m.took === null ? "lasts" : duration(m.took / 1000), "n"]]),
  );
  const keys = byId("keys");
  while (keys.children.length <= history.hubs.length) { // the last one is that of a time without a link
    const i = keys.children.length - 1;
    keys.lastElementChild.before(make("li", `hue-${i % 8}`, make("span", "swatch"), make("span", "", history.hubs[i])));
  }
}

function flows() {
  byId("flows-card").hidden = view.flows.length === 0;
  rows(
    byId("flows"),
    view.flows.map((f) => [[f.name], [f.state], [count(f.in), "n"], [count(f.out), "n"], [count(f.dropped), "n"], [count(f.errors), "n"], [count(f.inFlight), "n"], [f.oldestAgeSeconds > 0 ? duration(f.oldestAgeSeconds) : "–", "n"], [f.text]]),
  );
  byId("assets-card").hidden = view.assets.length === 0;
  rows(
    byId("assets"),
    view.assets.map((a) => [[a.name], [a.state], [a.text]]),
  );
}

const backlogChart = new Chart(byId("backlog"), chartSpans[0], (n) => count(n), true);
const rateChart = new Chart(byId("rate"), chartSpans[0], rate, true);
backlogChart.lines = [{ color: "--hub-1", points: backlog }];
rateChart.lines = [{ color: "--hub-0", points: rates }];
rateChart.marks = backlogChart.marks;

function pictures() {
  const known = now() - (history.known ?? now());
  drawTimeline(byId("timeline"), history, Number(byId("span").value) || fitting(known, lineSpans), now());
  const shown = fitting(backlog.length === 0 ? 0 : Date.now() - backlog[0].at, chartSpans);
  for (const chart of [backlogChart, rateChart]) {
    chart.span = shown;
    chart.draw();
  }
}
byId("span").addEventListener("change", pictures);
new ResizeObserver(pictures).observe(byId("timeline"));

let said = "";
const draw = eachFrame(() => {
  const v = view;
  if (v === null) return;
  text(byId("device"), v.device);
  ticking();
  fourAnswers();
  text(byId("f-acknowledged"), count(v.telemetry.acknowledged));
  text(byId("f-rate"), rate(v.telemetry.perSecond));
  text(byId("f-waiting"), count(v.outbox.queued));
  text(byId("f-dropped"), count(v.outbox.dropped));
  attribute(byId("f-dropped"), "data-bad", v.outbox.dropped > 0);
  text(byId("f-rtt"), linked(v) && v.link.rttMs > 0 ? duration(v.link.rttMs / 1000) : "–");
  const [flying, most] = byId("f-flight").children;
  text(flying, linked(v) ? count(v.link.inFlight) : "–");
  text(most, linked(v) ? `of ${count(v.link.window)}` : "");
  text(byId("backlog-text"), v.outbox.queued === 0 ? "none" : `${count(v.outbox.queued)}, ${bytes(v.outbox.bytes)}`);
  text(byId("rate-text"), `${rate(v.telemetry.perSecond)} now`);
  const c = v.commands;
  text(byId("commands-text"), `${plural(c.methods, "method")}, ${plural(c.c2d, "message")}, ${plural(c.desired, "desired change")}, ${count(c.failed)} failed`);
  facts();
  moves();
  flows();
  pictures();
  document.title = `${v.device}: ${verdict().sentence}`;
  const change = `${v.state} ${v.hub}`;
  if (change !== said) {
    if (said !== "") announce(`${v.device}: ${verdict().sentence}. ${linked(v) || v.why === null ? "" : cause(v.why)}`);
    said = change;
  }
});

// Events.

const loud = ["started", "stopping", "stopped", "connected", "link-lost", "assigned", "still-down", "outbox", "warning", "clock-wrong", "clock-right", "bug"];
const bad = ["link-lost", "still-down", "outbox", "warning", "clock-wrong", "bug"];
const commands = new Map([
  ["method", "Method"],
  ["c2d", "Message"],
  ["desired", "Desired"],
]);

let heard = false; // whether an event has come
function hear(kind, e) {
  if (kind === "missed") {
    const told = heard ? `This page was too slow for ${plural(e.count, "event")}` : `${doing(e.count, "earlier event", "is", "are")} not kept any more`;
    log.add({ at: now(), sentence: told, mood: heard ? "warn" : "quiet", loud: false });
    return;
  }
  heard = true;
  history.hear(e);
  const mood = bad.includes(e.kind) || e.person ? "bad" : e.kind === "connected" ? "good" : e.kind === "decision" && e.error ? "warn" : e.status >= 400 ? "warn" : "quiet";
  log.add({ at: e.time, sentence: [e.text, e.rule && `[${e.rule}]`].filter(Boolean).join(" "), mood, loud: loud.includes(e.kind) });
  if (commands.has(e.kind)) command(e, mood);
  if (e.kind === "link-lost" || e.kind === "connected") {
    backlogChart.marks.push({ at: Date.parse(e.time) - ahead, color: e.kind === "connected" ? "--accent" : "--bad" });
    if (backlogChart.marks.length > 100) backlogChart.marks.shift();
  }
  refresher.poke();
}

function command(e, mood) {
  byId("no-commands").hidden = true;
  const row = make("li", "", make("time", "", clock(e.time)), make("span", "", e.text || `${commands.get(e.kind)} ${e.name ?? ""}`));
  row.dataset.mood = mood;
  const list = byId("commands");
  list.prepend(row);
  if (list.children.length > 30) list.lastElementChild.remove();
}

// While the page is visible it asks once a second, because no event tells how the numbers grow.
let up = false;
setInterval(() => {
  if (up && document.visibilityState === "visible") refresher.poke();
}, 1_000);
setInterval(() => {
  if (document.visibilityState === "visible") ticking();
}, 100);

// The first time it asks for all events that are kept, so that the time line does not begin empty.
new Stream(
  "/events",
  {
    open() {
      up = true;
      presence(true);
      refresher.poke();
    },
    away(refusal) {
      up = false;
      presence(false, refusal);
    },
    event: hear,
  },
  0,
);

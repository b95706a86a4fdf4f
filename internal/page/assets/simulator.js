// The page of the simulator: what the cloud looks like, and buttons that attack it.
//
// GET /api/state is the truth. Events let dots hop at once, and say when to ask for the state again.

import { Chart } from "./chart.js";
import { describe, mood } from "./cloudevents.js";
import { Devices } from "./devices.js";
import { dpsFaults, faultWords, hubFaults } from "./faults.js";
import { Log } from "./log.js";
import { ask, Refresher, Refusal, Stream } from "./net.js";
import { Stage } from "./stage.js";
import { announce, attribute, byId, clone, count, doing, eachFrame, fitting, make, plural, presence, rate, text } from "./ui.js";

const spans = [60_000, 180_000]; // ms of the chart
const longest = spans.at(-1);

const stage = new Stage(byId("stage"), byId("dots"));
stage.pad("", byId("pad-away"));

/** The hubs in order, each with its elements; and the devices by id. */
const hubs = new Map();
const devices = new Map();
let numbered = 0; // hubs that were ever seen, for ids of elements
let dpsFault = null;
let sum = null; // the ledger of all devices
let began = false; // whether a state has been seen

const list = new Devices({ act, devices, hue, choose: (id) => stage.choose(id) });

// What the cloud says of itself.

const refresher = new Refresher(async () => {
  const asked = performance.now();
  take(await ask("GET", "/api/state"), asked);
  books.poke();
}, 400);

// The ledgers change with each message, and the state does not.
const books = new Refresher(async () => {
  sum = await ask("GET", "/api/ledger");
  draw();
  await list.readLedgers();
}, 800);

function take(state, asked) {
  dpsFault = state.dps.fault;
  for (const h of state.hubs) hub(h.name, h.host).fault = h.fault;
  const there = new Set();
  for (const d of state.devices) {
    there.add(d.id);
    const known = devices.get(d.id);
    // An event may be newer than this state.
    const at = known !== undefined && known.touched > asked ? known.hub : d.connectedHub;
    const device = known ?? { id: d.id, hub: null, home: null, touched: 0, ledger: null };
    Object.assign(device, { assigned: d.assignedHub, enabled: d.enabled, blocked: d.blocked, approved: d.approved, model: d.modelId });
    if (known === undefined) devices.set(d.id, device);
    put(device, at);
  }
  for (const [id, device] of devices) {
    if (there.has(id) || device.touched > asked) continue;
    devices.delete(id);
    stage.remove(id);
  }
  for (const h of [...hubs.values()]) if (!state.hubs.some((s) => s.name === h.name)) drop(h);
  began = true;
  draw();
}

// hub returns a hub, and makes its place on the stage when it is new.
function hub(name, host) {
  let h = hubs.get(name);
  if (h !== undefined) return h;
  const node = clone("t-hub");
  const [title, badge, note] = node.querySelector(".place-head").children;
  const hue = hubs.size % 8;
  const id = ++numbered;
  h = { name, hue, fault: null, node, badge, note, counts: node.querySelector(".counts"), heal: node.querySelector(".heal"), points: [], now: 0, heard: 0, devices: 0, close: "rst" };
  node.id = `hub-${id}`;
  title.id = `${node.id}-title`;
  node.setAttribute("aria-labelledby", title.id);
  node.dataset.hub = name;
  node.classList.add(`hue-${hue}`);
  text(title, name);
  text(note, host);
  const kill = node.querySelector(".attack");
  kill.setAttribute("aria-label", `Giant lizard: kill ${name}`);
  h.buttons = [kill];
  const group = node.querySelector(".attacks");
  group.setAttribute("aria-label", `Other attacks on ${name}`);
  for (const f of hubFaults) {
    const button = make("button", "", f.label);
    button.type = "button";
    button.dataset.kind = f.kind;
    button.title = f.about;
    h.buttons.push(button);
    group.append(button);
  }
  kill.title = "Kill: every connection is reset, and new ones are refused";
  for (const button of h.buttons) {
    const settings = hubFaults.find((f) => f.kind === button.dataset.kind && button !== kill)?.body ?? { kind: "kill" };
    button.addEventListener("click", () =>
      button.getAttribute("aria-pressed") === "true"
        ? act("DELETE", `/api/hubs/${encodeURIComponent(name)}/fault`)
        : attack(h, { ...settings, ...chosen(true) }),
    );
  }
  h.heal.setAttribute("aria-label", `Heal ${name}`);
  h.heal.addEventListener("click", () => act("DELETE", `/api/hubs/${encodeURIComponent(name)}/fault`));
  hubs.set(name, h);
  byId("hubs").append(node);
  stage.pad(name, node.querySelector(".pad"));
  const key = make("li", `hue-${hue}`, make("span", "swatch"), make("span", "", name), (h.key = make("b", "", "0")));
  byId("keys").append(key);
  chart.lines.push({ color: `--hub-${hue}`, points: h.points });
  stage.measure();
  return h;
}

// drop takes a hub away that the cloud does not have any more, as after a restart.
function drop(h) {
  hubs.delete(h.name);
  for (const d of devices.values()) if (d.hub === h.name) put(d, null);
  stage.drop(h.name);
  h.node.remove();
  h.key.parentElement.remove();
  chart.lines = chart.lines.filter((line) => line.points !== h.points);
  stage.measure();
}

function hue(name) {
  return hubs.get(name)?.hue ?? -1;
}

// attack lets a hub misbehave. The state of the cloud does not say how connections are closed.
function attack(h, fault) {
  h.close = fault.close ?? "rst";
  return act("POST", `/api/hubs/${encodeURIComponent(h.name)}/fault`, fault);
}

// put puts a device where it is now.
function put(device, name) {
  device.hub = name !== null && hubs.has(name) ? name : null;
  device.home ??= device.hub;
  stage.place(device.id, device.hub ?? "", hue(device.home));
}

// chosen returns what the controls above the stage say about the next attack.
function chosen(ofHub) {
  const body = {};
  const seconds = Number(byId("lasts").value);
  if (seconds > 0) body.seconds = seconds;
  if (ofHub && byId("knows").value !== "") body.dpsKnows = byId("knows").value === "true";
  return body;
}

/** act sends a request that changes something, and reports whether that was done. */
async function act(method, path, body) {
  try {
    await ask(method, path, body);
    byId("refused").hidden = true;
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    text(byId("refused"), error.message);
    byId("refused").hidden = false;
    return false;
  } finally {
    refresher.poke();
  }
}

for (const f of dpsFaults) {
  const button = make("button", "", f.label);
  button.type = "button";
  button.dataset.kind = f.kind;
  button.title = f.about;
  button.addEventListener("click", () =>
    button.getAttribute("aria-pressed") === "true" ? act("DELETE", "/api/dps/fault") : act("POST", "/api/dps/fault", { ...f.body, ...chosen(false) }),
  );
  byId("dps-attacks").append(button);
}
byId("heal-all").addEventListener("click", async () => {
  for (const h of hubs.values()) if (h.fault !== null) await act("DELETE", `/api/hubs/${encodeURIComponent(h.name)}/fault`);
  if (dpsFault !== null) await act("DELETE", "/api/dps/fault");
});

// What is drawn.

const chart = new Chart(byId("rate"), spans[0], rate, true);

const draw = eachFrame(() => {
  if (!began) return;
  for (const h of hubs.values()) h.devices = 0;
  let away = 0;
  for (const d of devices.values()) {
    if (d.hub === null) away++;
    else hubs.get(d.hub).devices++;
  }
  for (const h of hubs.values()) {
    attribute(h.node, "data-fault", h.fault ?? "");
    attribute(h.node, "data-devices", h.devices);
    text(h.badge, h.fault === null ? "healthy" : faultWords(h.fault));
    text(h.counts, `${plural(h.devices, "device")} · ${rate(h.now)} messages/s`);
    text(h.key, rate(h.now));
    h.heal.disabled = h.fault === null;
    for (const b of h.buttons) {
      const kind = b.dataset.kind;
      const on = h.fault !== null && (kind === h.fault ? h.close !== "fin" : kind === "kill-fin" && h.fault === "kill" && h.close === "fin");
      attribute(b, "aria-pressed", on);
    }
  }
  const dps = byId("dps");
  attribute(dps, "data-fault", dpsFault ?? "");
  text(byId("dps-badge"), dpsFault === null ? "healthy" : faultWords(dpsFault));
  for (const b of byId("dps-attacks").children) attribute(b, "aria-pressed", b.dataset.kind === dpsFault);
  text(byId("away-count"), away === 0 ? "nobody is without a link" : `${plural(away, "device")} without a link`);
  figures(away);
  verdict(away);
  list.draw();
});

function figures(away) {
  const all = devices.size;
  const [connected, known] = byId("f-connected").children;
  text(connected, count(all - away));
  text(known, `of ${count(all)}`);
  let messages = 0;
  for (const h of hubs.values()) messages += h.now;
  const measured = [...hubs.values()].some((h) => h.points.length > 0);
  text(byId("f-rate"), measured ? rate(messages) : "–");
  if (sum === null) return;
  text(byId("f-received"), count(sum.received));
  for (const name of ["missing", "duplicates", "reordered"]) {
    const node = byId(`f-${name}`);
    text(node, count(sum[name] ?? 0));
    attribute(node, "data-bad", name === "missing" && sum.missing > 0);
  }
}

let said = "";
function verdict(away) {
  const broken = [...hubs.values()].filter((h) => h.fault !== null);
  const faults = [...broken.map((h) => `${h.name}: ${faultWords(h.fault)}`), ...(dpsFault === null ? [] : [`DPS: ${faultWords(dpsFault)}`])];
  const all = devices.size;
  let sentence;
  let tone = "good";
  if (all === 0) {
    sentence = "The cloud is up. No device has come yet.";
    tone = "quiet";
  } else if (away === 0) {
    sentence = all === 1 ? "The device is connected." : `All ${count(all)} devices are connected.`;
  } else {
    sentence = away === all ? (all === 1 ? "The device has no link." : `None of ${count(all)} devices has a link.`) : `${count(away)} of ${plural(all, "device")} without a link.`;
    tone = away === all ? "bad" : "warn";
  }
  if (faults.length > 0 && tone === "good") tone = "warn";
  const missing = sum === null || sum.received === 0 ? "" : sum.missing === 0 ? "No sample is missing. " : `${doing(sum.missing, "sample", "has", "have")} not arrived yet. `;
  const broke = faults.length === 0 ? "Nothing is under attack." : `Under attack: ${faults.join("; ")}.`;
  text(byId("verdict-text"), sentence);
  text(byId("verdict-more"), missing + broke);
  attribute(byId("verdict"), "data-mood", tone);
  if (said !== broke + tone) {
    if (said !== "") announce(`${sentence} ${broke}`);
    said = broke + tone;
  }
}

// Events.

const log = new Log("events", "only-moves");

function record(kind, e) {
  log.add({ at: e.at, sentence: describe(kind, e), mood: mood(kind, e), loud: ["fault", "heal", "move", "operator", "missed"].includes(kind) });
}

function hear(kind, e) {
  switch (kind) {
    case "telemetry":
      if (hubs.has(e.hub)) hubs.get(e.hub).heard += e.count;
      books.poke();
      return;
    case "connect":
    case "disconnect": {
      const device = devices.get(e.device);
      if (device === undefined) break;
      // The end of an old connection may be told behind the beginning of the next one.
      if (kind === "disconnect" && device.hub !== e.hub) break;
      device.touched = performance.now();
      put(device, kind === "connect" ? e.hub : null);
      draw();
      break;
    }
    case "fault":
    case "heal":
      if (e.hub === "dps") dpsFault = kind === "fault" ? e.reason : null;
      else if (hubs.has(e.hub)) {
        const h = hubs.get(e.hub);
        h.fault = kind === "fault" ? e.reason : null;
        if (kind === "heal") h.close = "rst";
      }
      chart.marks.push({ at: Date.now(), color: kind === "fault" ? "--bad" : "--accent" });
      if (chart.marks.length > 100) chart.marks.shift();
      draw();
      break;
  }
  record(kind, e);
  refresher.poke();
}

// The rates of the last second, for as long as the page is visible.
const opened = Date.now();
let counted = performance.now();
let up = false;
function second() {
  if (up && document.visibilityState === "visible") {
    const now = performance.now();
    const took = (now - counted) / 1000;
    counted = now;
    let moved = false;
    for (const h of hubs.values()) {
      const measured = h.heard / took;
      h.heard = 0;
      // A device that sends once in five seconds should not make the number flicker.
      h.now = measured === 0 && h.now < 0.05 ? 0 : h.now * 0.5 + measured * 0.5;
      h.points.push({ at: Date.now(), value: h.now });
      while (h.points.length > 0 && h.points[0].at < Date.now() - longest - 5_000) h.points.shift();
      moved ||= h.now > 0;
    }
    chart.span = fitting(Date.now() - opened, spans);
    chart.draw();
    if (moved) draw();
  }
}
setInterval(second, 1_000);

function server(isUp, refusal) {
  up = isUp;
  counted = performance.now();
  presence(isUp, refusal);
}

new Stream("/api/events", {
  open() {
    server(true);
    for (const h of hubs.values()) h.heard = 0;
    refresher.poke();
  },
  away(refusal) {
    server(false, refusal);
  },
  event: hear,
});

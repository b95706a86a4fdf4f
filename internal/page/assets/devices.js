// The list of devices, and what is shown of the chosen one.

import { ask } from "./net.js";
import { attribute, byId, clock, clone, count, duration, make, text } from "./ui.js";

const perPage = 12;
const collator = new Intl.Collator("en", { numeric: true });

export class Devices {
  #act;
  #devices;
  #hue;
  #tell;
  #order = [];
  #rows = [];
  #page = 0;
  #chosen = null;

  /** devices is the map of all devices; act sends a request; hue gives a hub's color; choose hears
   * which device is chosen. */
  constructor({ act, devices, hue, choose }) {
    this.#act = act;
    this.#devices = devices;
    this.#hue = hue;
    this.#tell = choose;
    for (let i = 0; i < perPage; i++) {
      const row = clone("t-row");
      row.hidden = true;
      byId("rows").append(row);
      row.querySelector("button").addEventListener("click", () => this.choose(row.dataset.id));
      this.#rows.push(row);
    }
    const again = () => {
      this.#page = 0;
      this.draw();
      this.readLedgers();
    };
    byId("search").addEventListener("input", again);
    byId("which").addEventListener("change", again);
    byId("before").addEventListener("click", () => this.#turn(-1));
    byId("after").addEventListener("click", () => this.#turn(1));
    byId("twin").addEventListener("toggle", () => this.#readTwin());
    this.#acts();
  }

  #turn(by) {
    this.#page += by;
    this.draw();
    this.readLedgers();
  }

  // sorted returns all devices by id, node-2 before node-10.
  #sorted() {
    if (this.#order.length !== this.#devices.size || this.#order.some((d) => this.#devices.get(d.id) !== d)) {
      this.#order = [...this.#devices.values()].sort((a, b) => collator.compare(a.id, b.id));
    }
    return this.#order;
  }

  #found() {
    const words = byId("search").value.trim().toLowerCase();
    const which = byId("which").value;
    const found = [];
    for (const d of this.#sorted()) {
      if (words !== "" && !d.id.toLowerCase().includes(words) && !(d.hub ?? "").toLowerCase().includes(words)) continue;
      if (which === "away" && d.hub !== null) continue;
      if (which === "moved" && (d.hub === null || d.hub === d.home)) continue;
      if (which === "barred" && !d.blocked && d.enabled && d.approved) continue;
      found.push(d);
    }
    return found;
  }

  draw() {
    const found = this.#found();
    const pages = Math.max(1, Math.ceil(found.length / perPage));
    this.#page = Math.min(Math.max(this.#page, 0), pages - 1);
    const shown = found.slice(this.#page * perPage, (this.#page + 1) * perPage);
    this.#rows.forEach((row, i) => this.#row(row, shown[i]));
    byId("no-devices").hidden = this.#devices.size > 0;
    byId("before").disabled = this.#page === 0;
    byId("after").disabled = this.#page >= pages - 1;
    text(byId("page-text"), found.length === 0 ? "none" : `${count(this.#page * perPage + 1)}–${count(this.#page * perPage + shown.length)} of ${count(found.length)}`);
    if (this.#chosen === null && this.#devices.size === 1) this.choose(this.#devices.keys().next().value);
    this.#one();
  }

  #row(row, device) {
    row.hidden = device === undefined;
    if (device === undefined) {
      delete row.dataset.id;
      return;
    }
    const [head, hub, ...numbers] = row.children;
    const [button, tag] = head.children;
    row.dataset.id = device.id;
    attribute(row, "aria-current", device.id === this.#chosen ? "true" : null);
    text(button, device.id);
    const bars = barred(device);
    tag.hidden = bars === "";
    text(tag, bars);
    if (hub.childElementCount === 0) hub.append(make("span", "dot"), make("span", ""));
    hub.children[0].className = device.hub === null ? "dot" : `dot hue-${this.#hue(device.hub)}`;
    text(hub.children[1], device.hub ?? "no link");
    const l = device.ledger;
    ["received", "missing", "duplicates", "reordered"].forEach((name, i) => {
      text(numbers[i], l === null ? "…" : count(l[name] ?? 0));
      attribute(numbers[i], "data-bad", name === "missing" && l !== null && l.missing > 0);
    });
  }

  /** readLedgers asks for the ledgers of the devices that are shown. */
  async readLedgers() {
    const wanted = new Set(this.#rows.map((row) => row.dataset.id).filter((id) => id !== undefined));
    if (this.#chosen !== null) wanted.add(this.#chosen);
    await Promise.all(
      [...wanted].map(async (id) => {
        const device = this.#devices.get(id);
        if (device === undefined) return;
        device.ledger = await ask("GET", `/api/ledger?device=${encodeURIComponent(id)}`);
      }),
    );
    this.draw();
    if (byId("twin").open) await this.#readTwin();
  }

  choose(id) {
    if (id === undefined) return;
    this.#chosen = id;
    text(byId("twin-text"), "");
    this.#tell(id);
    this.draw();
    this.readLedgers().catch(() => {}); // the next refresh tries again
  }

  #one() {
    const device = this.#devices.get(this.#chosen);
    byId("device-none").hidden = device !== undefined;
    byId("device-body").hidden = device === undefined;
    text(byId("device-title"), device?.id ?? "One device");
    if (device === undefined) return;
    const bars = barred(device);
    const assigned = device.assigned === null ? "DPS has assigned no hub yet." : device.assigned === device.hub ? "DPS assigns the same hub." : `DPS assigns ${device.assigned}.`;
    text(byId("device-where"), `${device.hub === null ? "It has no link." : `It is connected to ${device.hub}.`} ${assigned}${bars === "" ? "" : ` It is ${bars}.`}`);
    for (const button of byId("device-acts").children) {
      const { act } = button.dataset;
      button.hidden = (act === "block" && device.blocked) || (act === "unblock" && !device.blocked) || (act === "disable" && !device.enabled) || (act === "enable" && device.enabled) || (act === "approve" && device.approved);
      button.disabled = act === "disconnect" && device.hub === null;
    }
    const l = device.ledger;
    const facts = [];
    if (l !== null) {
      facts.push(["Received", count(l.received)], ["Missing", count(l.missing ?? 0), l.missing > 0], ["Duplicated", count(l.duplicates)], ["Reordered", count(l.reordered)]);
      for (const [hub, n] of Object.entries(l.hubs).sort()) facts.push([`by ${hub}`, count(n)]);
      facts.push(["Longest silence", l.received > 1 ? duration(l.maxGapMs / 1000) : "–"], ["Last message", l.lastAt === null ? "–" : clock(l.lastAt)]);
    }
    if (device.model) facts.push(["Model", device.model]);
    const into = byId("device-facts");
    while (into.children.length > facts.length * 2) into.lastElementChild.remove();
    while (into.children.length < facts.length * 2) into.append(make("dt", ""), make("dd", ""));
    facts.forEach(([name, value, bad], i) => {
      text(into.children[2 * i], name);
      text(into.children[2 * i + 1], value);
      attribute(into.children[2 * i + 1], "data-bad", bad === true);
    });
  }

  async #readTwin() {
    const id = this.#chosen;
    if (id === null || !byId("twin").open) return;
    try {
      const twin = await ask("GET", `/api/devices/${encodeURIComponent(id)}/twin`);
      if (id === this.#chosen) text(byId("twin-text"), JSON.stringify(twin, null, 2));
    } catch (error) {
      text(byId("twin-text"), error.message);
    }
  }

  #acts() {
    const acts = [
      ["failover", "Fail over", "Move it to another hub as IoT Central does; it returns after 30 minutes"],
      ["failback", "Fail back", "Return it to its first hub"],
      ["disconnect", "Disconnect", "Close its connection, and do nothing else"],
      ["block", "Block", "Block it as an operator of IoT Central does"],
      ["unblock", "Unblock", "Undo the block"],
      ["disable", "Disable", "Disable it in DPS and in its hub"],
      ["enable", "Enable", "Undo disable"],
      ["approve", "Approve", "Let it in"],
    ];
    for (const [name, label, about] of acts) {
      const button = make("button", "", label);
      button.type = "button";
      button.dataset.act = name;
      button.title = about;
      button.addEventListener("click", () => this.#act("POST", `/api/devices/${encodeURIComponent(this.#chosen)}/${name}`));
      byId("device-acts").append(button);
    }
  }
}

// barred says why a device may not connect, or nothing.
function barred(d) {
  return [d.blocked && "blocked", !d.enabled && "disabled", !d.approved && "waiting for approval"].filter(Boolean).join(", ");
}

// Sentences for the events of the simulator.

import { faultWords } from "./faults.js";
import { plural } from "./ui.js";

const where = (hub) => (hub === "dps" ? "DPS" : (hub ?? "a hub"));
const because = (e) => (e.reason ? `: ${e.reason}` : "");

/** describe returns a sentence for an event. */
export function describe(kind, e) {
  const device = e.device ?? "a device";
  switch (kind) {
    case "connect":
      return `${device} is connected to ${where(e.hub)}`;
    case "disconnect":
      return `${device} has lost ${where(e.hub)}${because(e)}`;
    case "refuse":
      return `${where(e.hub)} refuses ${device}${because(e)}`;
    case "register":
      return `DPS answers ${device}${because(e)}`;
    case "move":
      return `${device} belongs to ${where(e.hub)} now`;
    case "fault":
      return e.reason === "kill" ? `The giant lizard: ${where(e.hub)} is killed` : `${where(e.hub)}: ${faultWords(e.reason)}`;
    case "heal":
      return `${where(e.hub)} is healed`;
    case "operator":
      return `An operator changes ${device}${because(e)}`;
    case "missed":
      return `This page was too slow for ${plural(e.count, "event")}`;
    default:
      return `${kind} ${e.hub ?? ""} ${device}${because(e)}`;
  }
}

/** mood returns good, bad, warn or quiet. */
export function mood(kind, e) {
  switch (kind) {
    case "fault":
    case "refuse":
      return "bad";
    case "disconnect":
    case "missed":
      return "warn";
    case "heal":
    case "connect":
      return "good";
    case "register":
      return e.reason === "assigned" ? "quiet" : "warn";
    default:
      return "quiet";
  }
}

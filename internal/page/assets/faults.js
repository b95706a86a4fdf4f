// The faults that the buttons cause. docs/control-api.md describes each.

export const hubFaults = [
  { kind: "kill-fin", label: "Kill, FIN", about: "Every connection is closed in order, and new ones are refused", body: { kind: "kill", close: "fin" } },
  { kind: "blackhole", label: "Black hole", about: "Connections stay open and new ones are accepted, but nothing is answered" },
  { kind: "syndrop", label: "SYN drop", about: "Connections fall silent, and new ones get no answer at all" },
  { kind: "connack3", label: "Refuse 3", about: "Every connection is closed, and new ones get CONNACK 3: server unavailable" },
  { kind: "connack5", label: "Refuse 5", about: "Every connection is closed, and new ones get CONNACK 5: not authorized" },
  { kind: "close", label: "Accept, close", about: "Every connection is closed, and new ones are accepted and closed" },
  { kind: "slow", label: "Slow", about: "Every packet is a second late" },
  { kind: "throttle", label: "Throttle", about: "CONNACK and PUBACK are five seconds late, and twin requests get 429" },
  { kind: "drop-puback", label: "No PUBACK", about: "Telemetry is received but not acknowledged" },
].map((f) => ({ body: { kind: f.kind }, ...f }));

export const dpsFaults = [
  { kind: "down", label: "Down", about: "Connections are refused" },
  { kind: "blackhole", label: "Black hole", about: "Connections are accepted, but nothing is answered" },
  { kind: "drop", label: "Drop", about: "Connections are closed in the middle of a registration" },
  { kind: "throttle", label: "Throttle", about: "DPS answers 429" },
  { kind: "error500", label: "Error 500", about: "DPS answers 500" },
  { kind: "stuck", label: "Stuck", about: "DPS answers “assigning” for ever" },
  { kind: "slow", label: "Slow", about: "Answers are late" },
  { kind: "unauthorized", label: "Unauthorized", about: "Everybody gets 401" },
].map((f) => ({ body: { kind: f.kind }, ...f }));

const words = {
  kill: "killed",
  blackhole: "black hole",
  syndrop: "SYN drop",
  connack3: "CONNACK 3",
  connack5: "CONNACK 5",
  close: "accepts and closes",
  slow: "slow",
  throttle: "throttles",
  "drop-puback": "sends no PUBACK",
  down: "down",
  drop: "drops registrations",
  error500: "answers 500",
  stuck: "assigns for ever",
  unauthorized: "answers 401",
  stray: "answers twice",
};

/** faultWords returns what a person calls a kind of fault. */
export const faultWords = (kind) => (Object.hasOwn(words, kind) ? words[kind] : String(kind));

// History is what the events of a device tell of its links: when there was one, to which hub, and
// what interrupted it.

const keptSpans = 500;
const keptMoves = 30;

export class History {
  /** Links in order of time: {hub, from, to}; to is null for the link at work. Times in ms. */
  spans = [];
  /** Interruptions, the newest first: {at, from, to, rule, cause, took}; to is null while it lasts. */
  moves = [];
  /** The hubs that were seen, in order. */
  hubs = [];
  /** The first moment of which anything is known, in ms; null if there is none. */
  known = null;
  #cause = null;

  /** hear takes an event of GET /events. */
  hear(e) {
    const at = Date.parse(e.time);
    if (Number.isNaN(at)) return;
    this.known = Math.min(this.known ?? at, at);
    switch (e.kind) {
      case "started":
        this.#lost(at);
        this.moves = this.moves.filter((m) => m.to !== null);
        break;
      case "connected":
        this.#connected(e, at);
        break;
      case "link-lost": {
        const hub = e.hub || this.spans.at(-1)?.hub || "";
        if (this.spans.length === 0 && this.known < at) this.#open(hub, this.known); // it came up before all that is known
        this.#lost(at);
        if (e.routine) break;
        this.#cause = null;
        this.#move({ at, from: hub, to: null, rule: e.rule ?? "", cause: e.error || e.text || "", took: null });
        break;
      }
      case "decision": {
        const open = this.moves[0];
        if (open === undefined || open.to !== null || this.#cause !== null || !e.rule) break;
        this.#cause = e;
        open.rule = e.rule;
        if (e.signal) open.cause = e.signal;
        break;
      }
      case "stopped":
      case "stopping":
        this.#lost(at);
        break;
    }
  }

  /** see takes the status: it knows of a link or a failover that no event has told of. */
  see(view) {
    const since = Date.parse(view.since);
    if (!Number.isNaN(since)) this.known = Math.min(this.known ?? since, since);
    if (view.hub && !Number.isNaN(since)) {
      const last = this.spans.at(-1);
      if (last === undefined || (last.to !== null && last.to <= since)) this.#open(view.hub, since);
    }
    const f = view.lastFailover;
    if (f && !this.moves.some((m) => m.to === f.to && Math.abs(m.at + (m.took ?? 0) - Date.parse(f.at)) < 2_000)) {
      const at = Date.parse(f.at) - f.tookMs;
      if (!Number.isNaN(at) && !this.moves.some((m) => m.at > at)) this.#move({ at, from: f.from, to: f.to, rule: f.rule, cause: "", took: f.tookMs });
    }
  }

  #connected(e, at) {
    const hub = e.hub || e.peer || "";
    this.#lost(at);
    this.#open(hub, at);
    const open = this.moves[0];
    const took = e.outageNs ? e.outageNs / 1e6 : 0;
    if (open !== undefined && open.to === null) {
      open.to = hub;
      open.took = took || at - open.at;
      open.rule ||= e.rule ?? "";
    } else if (e.from && e.from !== hub) {
      this.#move({ at: at - took, from: e.from, to: hub, rule: e.rule ?? "", cause: "", took }); // its loss is not kept any more
    }
  }

  #open(hub, from) {
    if (!this.hubs.includes(hub)) this.hubs.push(hub);
    this.spans.push({ hub, from, to: null });
    if (this.spans.length > keptSpans) this.spans.shift();
  }

  #lost(at) {
    const last = this.spans.at(-1);
    if (last !== undefined && last.to === null) last.to = at;
  }

  #move(move) {
    this.known = Math.min(this.known ?? move.at, move.at);
    this.moves.unshift(move);
    this.moves.sort((a, b) => b.at - a.at);
    if (this.moves.length > keptMoves) this.moves.length = keptMoves;
  }
}

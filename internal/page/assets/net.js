// Requests to the page's own server, and its stream of events.

const answerLimit = 15_000; // ms until the beginning of an answer; servers here need a few
const mute = (ms) => `The server takes requests and does not answer within ${ms / 1000} s.`;

/** An error whose text is a sentence for the person at the page. */
export class Refusal extends Error {}

/**
 * ask sends a request and returns the JSON of the answer, or null without one. It throws a Refusal
 * with the server's own sentence, or one that says that the server does not answer.
 */
export const ask = async (method, path, body) => (await askDated(method, path, body)).value;

/** askDated is ask, and also returns the server's time in ms as far as it tells it, else null. */
export async function askDated(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      cache: "no-store",
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(answerLimit),
    });
  } catch (error) {
    throw new Refusal(error?.name === "TimeoutError" ? mute(answerLimit) : "The server does not answer.");
  }
  const text = await answer.text().catch(() => "");
  let value = null;
  try {
    value = text === "" ? null : JSON.parse(text);
  } catch {
    if (answer.ok) throw new Refusal(`The answer to ${method} ${path} is not JSON.`);
  }
  if (!answer.ok) throw new Refusal(value?.error ?? `The server answered ${answer.status}.`);
  const date = Date.parse(answer.headers.get("Date") ?? "");
  return { value, date: Number.isNaN(date) ? null : date };
}

const signs = 45_000; // ms; servers send a comment at least each 30 s
const firstWait = 300;
const longestWait = 3_000;

/**
 * Stream reads server-sent events for as long as the page is visible. It opens the stream again
 * when it breaks, after waits that grow, and resumes behind the last event that it got.
 *
 * It does not use EventSource, which gives up for good when a server answers with an error, and
 * cannot say at the start from which event on it wants to read.
 */
export class Stream {
  #url;
  #hear;
  #last;
  #wait = firstWait;
  #timer = 0;
  #abort = null;
  #silence;
  #limit;

  /**
   * hear has three functions: open(); away(refusal), with the sentence of a server that refuses, or
   * "" if none answers; and event(kind, value). from is the event id to resume behind; undefined
   * means that only new events are wanted. silence is after how many ms without a byte the server
   * counts as away, and limit after how many without an answer.
   */
  constructor(url, hear, from, silence = signs, limit = answerLimit) {
    this.#silence = silence;
    this.#limit = limit;
    this.#url = url;
    this.#hear = hear;
    this.#last = from;
    document.addEventListener("visibilitychange", () => this.#look());
    addEventListener("online", () => this.#look());
    addEventListener("pagehide", () => this.#stop());
    addEventListener("pageshow", () => this.#look());
    this.#look();
  }

  // A hidden page needs no events, and browsers allow few connections to one server.
  #look() {
    if (document.visibilityState === "hidden") this.#stop();
    else this.#soon();
  }

  #soon() {
    if (this.#abort !== null) return;
    this.#wait = firstWait;
    this.#read();
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }

  async #read() {
    clearTimeout(this.#timer);
    const abort = new AbortController();
    this.#abort = abort;
    let refusal = "";
    const late = setTimeout(() => {
      refusal = mute(this.#limit);
      abort.abort();
    }, this.#limit);
    try {
      const headers = { Accept: "text/event-stream" };
      if (this.#last !== undefined) headers["Last-Event-ID"] = String(this.#last);
      const answer = await fetch(this.#url, { headers, cache: "no-store", signal: abort.signal });
      if (answer.ok) clearTimeout(late); // else the sentence of the refusal must come in time, too
      if (!answer.ok) {
        const said = await answer.json().catch(() => null);
        refusal ||= String(said?.error ?? `The server answers ${answer.status}.`);
        throw new Refusal(refusal);
      }
      this.#wait = firstWait;
      this.#hear.open();
      await this.#frames(answer.body.pipeThrough(new TextDecoderStream()).getReader(), abort);
    } catch {
      // The stream has broken, or never began. Both mean the same here.
    } finally {
      clearTimeout(late);
    }
    if (this.#abort !== abort) return; // stopped on purpose
    this.#abort = null;
    this.#hear.away(refusal);
    this.#timer = setTimeout(() => this.#read(), this.#wait);
    this.#wait = Math.min(this.#wait * 2, longestWait);
  }

  async #frames(reader, abort) {
    let rest = "";
    let quiet = 0;
    const listen = () => {
      clearTimeout(quiet);
      quiet = setTimeout(() => abort.abort(), this.#silence);
    };
    try {
      for (listen(); ; listen()) {
        const { value, done } = await reader.read();
        if (done) return;
        rest += value;
        const frames = rest.split("\n\n");
        rest = frames.pop();
        for (const frame of frames) this.#frame(frame);
        if (rest.length > 1 << 20) throw new Refusal("an event has no end");
      }
    } finally {
      clearTimeout(quiet);
    }
  }

  #frame(text) {
    let kind = "message";
    const data = [];
    for (const line of text.split("\n")) {
      const colon = line.indexOf(":");
      if (colon <= 0) continue; // a comment
      const value = line.slice(colon + 1).replace(/^ /, "");
      switch (line.slice(0, colon)) {
        case "event":
          kind = value;
          break;
        case "data":
          data.push(value);
          break;
        case "id":
          this.#last = value;
          break;
      }
    }
    if (data.length === 0) return;
    let value;
    try {
      value = JSON.parse(data.join("\n"));
    } catch {
      return; // not an event of this server
    }
    if (typeof value !== "object" || value === null) return;
    try {
      this.#hear.event(kind, value);
    } catch (error) {
      reportError(error); // a mistake of this page does not end the stream
    }
  }
}

/**
 * Refresher calls a function soon after each poke, but never again before a pause that grows with
 * what a call costs. So a storm of events costs no more than a few calls.
 */
export class Refresher {
  #work;
  #least;
  #timer = 0;
  #busy = false;
  #again = false;
  #free = 0; // when the next call may begin

  constructor(work, least) {
    this.#work = work;
    this.#least = least;
  }

  poke() {
    if (this.#busy) {
      this.#again = true;
      return;
    }
    if (this.#timer !== 0) return;
    this.#timer = setTimeout(() => this.#run(), Math.max(0, this.#free - performance.now()));
  }

  async #run() {
    this.#timer = 0;
    this.#busy = true;
    this.#again = false;
    const began = performance.now();
    try {
      await this.#work();
    } catch {
      // The stream tells whether the server is away. The next poke tries again.
    }
    const ended = performance.now();
    this.#free = ended + Math.max(this.#least, 4 * (ended - began));
    this.#busy = false;
    if (this.#again) this.poke();
  }
}

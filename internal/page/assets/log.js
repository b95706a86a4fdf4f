// Log is the list of the newest events on a page.

import { attribute, byId, clock, eachFrame, make, text } from "./ui.js";

const kept = 200;
const shown = 60;

export class Log {
  #rows;
  #filter;
  #entries = []; // the newest first
  #draw;

  /** list and filter are ids of the list and of a checkbox that leaves loud events alone. */
  constructor(list, filter) {
    this.#rows = byId(list);
    this.#filter = byId(filter);
    this.#draw = eachFrame(() => this.#show());
    this.#filter.addEventListener("change", this.#draw);
  }

  /** add adds an entry {at, sentence, mood, loud}. */
  add(entry) {
    this.#entries.unshift(entry);
    if (this.#entries.length > kept) this.#entries.length = kept;
    this.#draw();
  }

  #show() {
    const entries = this.#entries.filter((e) => !this.#filter.checked || e.loud).slice(0, shown);
    const rows = this.#rows;
    while (rows.children.length < entries.length) rows.append(make("li", "", make("time", ""), make("span", "")));
    while (rows.children.length > entries.length) rows.lastElementChild.remove();
    entries.forEach((e, i) => {
      const row = rows.children[i];
      text(row.children[0], clock(e.at));
      text(row.children[1], e.sentence);
      attribute(row, "data-mood", e.mood);
      attribute(row, "data-loud", e.loud);
    });
  }
}

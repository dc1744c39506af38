// What the page is doing: a sentence for eyes and screen readers, a bar, and a button that ends it.

import { get } from "./dom.js";

const PATIENCE = 300; // milliseconds before the bar and the button appear
const STAGES = {
  upload: "Sending it …",
  wait: "Waiting for an earlier search …",
  decode: "Reading the file …",
  speak: "Voices say it …",
  encode: "Making sense of it …",
  search: "Searching the index …",
  rerank: "Comparing the best, pair by pair …",
};

export class Work {
  #running = null; // aborts what runs

  constructor() {
    get("cancel").addEventListener("click", () => this.cancel());
  }

  get busy() {
    return this.#running !== null;
  }

  // Shows a sentence when nothing runs.
  say(text, isWarning = false) {
    if (this.busy) return;
    get("status").textContent = text;
    get("status").classList.toggle("warning", isWarning);
  }

  // Runs task(signal, tell) alone: what ran before is ended. Returns whether it came to its end.
  // `first` is shown until `tell(stage, share, before)` tells more; `before` begins its sentence.
  async run(first, task) {
    this.#running?.abort();
    const mine = (this.#running = new AbortController());
    const tell = (stage, share, before = "") => {
      if (mine === this.#running) this.#show(before + (STAGES[stage] ?? stage), share);
    };
    this.#mark(true);
    get("status").classList.remove("warning");
    this.#show(first);
    const patience = setTimeout(() => (get("work").hidden = false), PATIENCE);
    try {
      await task(mine.signal, tell);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      clearTimeout(patience);
      if (mine === this.#running) this.#end();
    }
    return !mine.signal.aborted;
  }

  cancel() {
    this.#running?.abort();
    this.#end();
    this.say("Cancelled: nothing is searched any more.");
  }

  #end() {
    this.#running = null;
    this.#mark(false);
    // Who pressed the button by keyboard goes on where the query is given.
    if (document.activeElement === get("cancel")) document.querySelector("[role=tab][aria-selected=true]").focus();
    get("work").hidden = true;
  }

  #mark(isBusy) {
    document.body.classList.toggle("busy", isBusy);
    get("results").setAttribute("aria-busy", String(isBusy));
  }

  // A screen reader is told of a stage once, not of each share.
  #show(text, share) {
    if (get("status").textContent !== text) get("status").textContent = text;
    if (share === undefined) get("bar").removeAttribute("value");
    else get("bar").value = share;
  }
}

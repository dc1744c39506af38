// Recording: the button, the level while it runs, and a word when nothing is heard.

import { clearError, fail, get } from "./dom.js";
import * as draw from "./draw.js";
import { Microphone } from "./microphone.js";

const FLOOR = -60; // dB of full scale, where the meter begins
const QUIET = -50; // dB; pieces below hold no speech. The server's -60 dB is of their mean power.
const LOUD = -1; // dB; likewise above, speech is cut off
const DOUBT = 1.5; // seconds without a sound, after which the page says so

const decibels = (peak) => 20 * Math.log10(Math.max(1e-6, peak));

export class Recorder {
  // take(blob) gets what was recorded; onChange(isOn) is called when recording begins and ends.
  constructor(take, onChange) {
    Object.assign(this, { take, onChange, microphone: null, limit: 0 });
    get("record").addEventListener("click", () => (this.on ? this.finish() : this.start()));
  }

  get on() {
    return this.microphone !== null;
  }

  async start() {
    clearError();
    const heard = [];
    let loudest = FLOOR;
    this.microphone = new Microphone(this.limit, (piece, seconds) => {
      // Two bars per piece of 2048 samples.
      for (let i = 0; i < piece.length; i += 1024) {
        heard.push(piece.subarray(i, i + 1024).reduce((most, value) => Math.max(most, Math.abs(value)), 0));
      }
      const level = decibels(Math.max(...heard.slice(-2)));
      loudest = Math.max(loudest, level);
      this.#showLevel(level);
      this.#advise(loudest, seconds);
      get("clock").textContent = `${seconds.toFixed(1)} / ${this.limit} s`;
      draw.live(get("wave"), heard);
    }, () => this.finish());
    this.#show(true);
    try {
      await this.microphone.start();
    } catch (error) {
      this.microphone = null;
      this.#show(false);
      fail(error);
    }
  }

  // Ends the recording; hands it on, or drops it.
  async finish(keep = true) {
    const done = this.microphone;
    if (!done) return;
    this.microphone = null;
    this.#show(false);
    const blob = await done.stop();
    if (!keep) return;
    if (blob) this.take(blob);
    else fail(new Error("nothing was recorded; hold on a moment longer"));
  }

  #showLevel(level) {
    const share = Math.max(0, Math.min(1, 1 - level / FLOOR));
    get("level").setAttribute("aria-valuenow", String(Math.round(100 * share)));
    get("level").setAttribute("aria-valuetext", `${Math.round(level)} decibels`);
    get("level").firstElementChild.style.width = `${100 * share}%`;
    get("level").classList.toggle("loud", level > LOUD);
  }

  #advise(loudest, seconds) {
    let advice = "";
    if (loudest > LOUD) advice = "Too loud: move away from the microphone a little.";
    else if (loudest < QUIET && seconds > DOUBT) advice = "Nothing is heard yet. Is the microphone muted, or another one chosen?";
    if (get("advice").textContent !== advice) get("advice").textContent = advice;
  }

  #show(on) {
    get("record").setAttribute("aria-pressed", String(on));
    get("record-label").textContent = on ? "Stop and search" : "Record";
    for (const id of ["level", "clock"]) get(id).hidden = !on;
    for (const id of ["query-name", "play-query"]) get(id).hidden = on;
    get("clock").textContent = "waiting for the microphone …";
    get("advice").textContent = "";
    if (on) draw.live(get("wave"), []);
    this.onChange(on);
  }
}

// A long recording as its waveform, with the stretches that were found; it plays from any place.

import * as api from "./api.js";
import { clock, element, play } from "./dom.js";
import * as draw from "./draw.js";

const STEPS = { ArrowLeft: -5, ArrowDown: -5, ArrowRight: 5, ArrowUp: 5, PageDown: -60, PageUp: 60 }; // seconds
const REACH = 12; // pixels beside a stretch that still count as a click on it

// An address that plays from `start`, and to `end` where it is given.
export function addressFrom(id, start, end) {
  const until = end === undefined ? "" : `,${end.toFixed(2)}`;
  return `${api.recordingUrl(id)}#t=${start.toFixed(2)}${until}`;
}

export class Timeline {
  // hit: { id, moments }, moments being [start, end, score, clear], best first. sound: its player.
  constructor(hit, sound) {
    Object.assign(this, { id: hit.id, spans: hit.moments, sound });
    Object.assign(this, { peaks: [], seconds: 0, at: hit.moments[0][0], chosen: -1 });
    this.canvas = element("canvas", { className: "outline", tabIndex: 0, role: "slider" });
    this.canvas.setAttribute("aria-label", `Place in ${hit.id}: arrow keys move by 5 seconds, Enter plays and stops`);
    this.note = element("span", { className: "hint", textContent: "The waveform is being drawn …" });
    this.places = element("span", { className: "places" }, hit.moments[0][3] ? "spoken of at " : "nowhere clearly, perhaps at ", ...this.spans.map((span, n) => this.#place(span, n)));
    this.node = element("div", { className: "timeline" }, this.canvas, this.note, this.places);
    this.#wire();
    new ResizeObserver(() => this.#draw()).observe(this.canvas);
    this.#load();
  }

  // Starts at a place; `end` stops it there.
  playFrom(start, end) {
    this.at = start;
    this.sound.src = addressFrom(this.id, start, end);
    play(this.sound);
    this.#draw();
  }

  async #load() {
    try {
      const outline = await api.outline(this.id, () => this.canvas.isConnected);
      if (!outline) return;
      Object.assign(this, outline);
      this.note.hidden = true;
      this.node.classList.add("drawn");
    } catch (error) {
      this.note.textContent = `The waveform cannot be drawn: ${error.message}`;
    }
    this.#draw();
  }

  #place([start, end, score], n) {
    const title = `similarity ${score.toFixed(3)}, to ${clock(end)}`;
    const place = element("button", { type: "button", className: "quiet", title, textContent: `▶ ${clock(start)}` });
    place.setAttribute("aria-label", `Play ${this.id} from ${clock(start)}, ${title}`);
    place.addEventListener("click", () => this.playFrom(start, end));
    const choose = (chosen) => () => {
      this.chosen = chosen;
      this.#draw();
    };
    for (const event of ["focus", "pointerenter"]) place.addEventListener(event, choose(n));
    for (const event of ["blur", "pointerleave"]) place.addEventListener(event, choose(-1));
    return place;
  }

  #wire() {
    const { canvas, sound } = this;
    canvas.addEventListener("click", (event) => this.#click(event));
    canvas.addEventListener("keydown", (event) => this.#press(event));
    sound.addEventListener("loadedmetadata", () => {
      // Some formats state no length.
      if (!this.seconds && Number.isFinite(sound.duration)) this.seconds = sound.duration;
      this.#draw();
    });
    for (const event of ["timeupdate", "seeked"]) {
      sound.addEventListener(event, () => {
        this.at = sound.currentTime;
        this.#draw();
      });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  #click(event) {
    if (!this.seconds) return;
    const { left, width } = this.canvas.getBoundingClientRect();
    const x = event.clientX - left;
    const place = (seconds) => (seconds / this.seconds) * width;
    const near = this.spans.find(([start, end]) => x > place(start) - REACH && x < place(end) + REACH);
    if (near) this.playFrom(near[0], near[1]);
    else this.playFrom(Math.max(0, Math.min(this.seconds, (x / width) * this.seconds)));
  }

  #press(event) {
    const goals = { Home: 0, End: this.seconds, ...(event.key in STEPS && { [event.key]: this.at + STEPS[event.key] }) };
    if (event.key === "Enter" || event.key === " ") {
      if (this.sound.paused) this.playFrom(this.at);
      else this.sound.pause();
    } else if (event.key in goals && this.seconds) {
      this.at = Math.max(0, Math.min(this.seconds, goals[event.key]));
      if (!this.sound.paused) this.playFrom(this.at);
      this.#draw();
    } else return;
    event.preventDefault();
  }

  #draw() {
    if (!this.canvas.isConnected) return;
    const { canvas, at, seconds, spans } = this;
    const inside = spans.find(([start, end]) => at >= start && at < end);
    canvas.setAttribute("aria-valuemin", "0");
    canvas.setAttribute("aria-valuemax", String(Math.round(seconds)));
    canvas.setAttribute("aria-valuenow", String(Math.round(at)));
    canvas.setAttribute("aria-valuetext", `${clock(at)} of ${clock(seconds)}${inside ? ", a stretch that was found" : ""}`);
    draw.outline(canvas, this);
  }
}

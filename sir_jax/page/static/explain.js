// The dialog that explains one pair: the picture, dark where the attention is low, and the waveform
// below a curve of attention.

import * as api from "./api.js";
import { get } from "./dom.js";
import * as draw from "./draw.js";

const STEPS = 1000; // positions of the two sliders that choose an interval
const AROUND = 0.12; // seconds before and after the player's position that the map shows

export class Why {
  // fail(error) shows an error on the page.
  constructor(fail) {
    this.fail = fail;
    this.attention = null;
    this.sound = new Audio();
    this.requests = 0;
    const dialog = get("why");
    get("why-close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.#stop());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    get("play").addEventListener("click", () => (this.sound.paused ? this.#play() : this.#stop()));
    get("whole").addEventListener("click", () => this.#choose(0, this.attention.seconds));
    get("no-patch").addEventListener("click", () => this.#pick(-1));
    for (const id of ["from", "to"]) get(id).addEventListener("input", () => this.#slide(id));
    this.#wireMap(get("map"));
    this.#wireLine(get("line"));
    const watch = new ResizeObserver(() => this.attention && this.#draw());
    watch.observe(get("map"));
    watch.observe(get("line"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.attention && this.#draw());
  }

  // pair: { token, id, name, picture (URL), sound (URL), score, span ([start, end], or none) }.
  async open(pair) {
    const request = ++this.requests;
    let attention;
    try {
      attention = await api.explain(pair.token, pair.id, pair.span);
    } catch (error) {
      this.fail(error);
      return;
    }
    if (request !== this.requests) return; // a later request replaces this one
    for (const name of ["weights", "by_frame", "by_patch"]) attention[name] = api.floats(attention[name]);
    attention.frames = attention.by_frame.length;
    attention.patches = attention.rows * attention.cols;
    this.attention = attention;
    const picture = get("map-picture");
    picture.src = pair.picture;
    picture.alt = `Picture of the pair: ${pair.name}`;
    get("map-box").style.aspectRatio = `${attention.width} / ${attention.height}`;
    this.sound.src = pair.sound;
    get("why-name").textContent = pair.name.split("/").pop();
    get("why-name").title = pair.name;
    facts(get("why-facts"), pair, attention);
    [this.from, this.to, this.at, this.patch] = [0, attention.seconds, null, -1];
    await picture.decode().catch(() => {});
    if (!get("why").open) get("why").showModal();
    this.#pick(-1);
    this.#choose(0, attention.seconds);
  }

  // Returns the patches' shares from `from` to `to` seconds, as Attention.during computes them.
  #shares(from, to) {
    const { weights, by_frame, frames, patches, frame_seconds } = this.attention;
    const first = Math.min(Math.max(Math.floor(from / frame_seconds), 0), frames - 1);
    const stop = Math.min(Math.max(Math.ceil(to / frame_seconds), first + 1), frames);
    const out = new Float32Array(patches);
    let total = 0;
    for (let t = first; t < stop; t++) {
      const share = by_frame[t] + 1e-12;
      total += share;
      for (let p = 0; p < patches; p++) out[p] += share * weights[t * patches + p];
    }
    return out.map((value) => value / total);
  }

  // Returns the share of one patch in each frame.
  #curve(patch) {
    const { weights, frames, patches } = this.attention;
    return Float32Array.from({ length: frames }, (_, t) => weights[t * patches + patch]);
  }

  #choose(from, to) {
    const { seconds } = this.attention;
    [this.from, this.to] = [Math.max(0, Math.min(from, to)), Math.min(seconds, Math.max(from, to))];
    for (const id of ["from", "to"]) {
      get(id).value = Math.round((this[id] / seconds) * STEPS);
      get(`${id}-value`).textContent = `${this[id].toFixed(2)} s`;
    }
    this.#draw();
  }

  #pick(patch) {
    this.patch = patch;
    get("no-patch").disabled = patch < 0;
    this.#draw();
  }

  #slide(id) {
    const time = (get(id).value / STEPS) * this.attention.seconds;
    // Neither slider can pass the other.
    if (id === "from") this.#choose(Math.min(time, this.to), this.to);
    else this.#choose(this.from, Math.max(time, this.from));
  }

  #draw() {
    const { attention, patch, at } = this;
    const shares = at === null ? this.#shares(this.from, this.to) : this.#shares(at - AROUND, at + AROUND);
    const box = attention.box.map((side, i) => side / (i % 2 ? attention.height : attention.width));
    draw.map(get("map"), { shares, rows: attention.rows, cols: attention.cols, box, patch });
    const curve = patch < 0 ? attention.by_frame : this.#curve(patch);
    draw.timeline(get("line"), {
      peaks: attention.peaks, curve, tint: patch < 0 ? "accent" : "patch",
      from: this.from, to: this.to, at, seconds: attention.seconds,
    });
    get("curve-note").textContent = patch < 0
      ? "Curve: how much the match depends on each stretch of speech"
      : "Curve: how much attention each moment of speech gives to the chosen patch";
    get("curve-note").classList.toggle("of-patch", patch >= 0);
    get("map-note").textContent = this.#note(shares);
  }

  #note(shares) {
    const { attention, patch } = this;
    if (patch < 0) return `Bright where the model looks, ${this.#when()}.`;
    const curve = this.#curve(patch);
    const best = (curve.indexOf(Math.max(...curve)) + 0.5) * attention.frame_seconds;
    const name = `row ${Math.floor(patch / attention.cols) + 1}, column ${(patch % attention.cols) + 1}`;
    return `Patch in ${name}: ${(100 * shares[patch]).toFixed(1)} % of the attention, ${this.#when()}; most at ${best.toFixed(2)} s.`;
  }

  #when() {
    const whole = this.from <= 0 && this.to >= this.attention.seconds;
    return whole ? "over the whole clip" : `from ${this.from.toFixed(2)} to ${this.to.toFixed(2)} s`;
  }

  async #play() {
    const { sound } = this;
    // An interval that is too short to hear is extended.
    const end = Math.max(this.to, this.from + 0.05);
    try {
      sound.currentTime = this.from;
      await sound.play();
    } catch (error) {
      if (error.name !== "AbortError") this.#unplayable(error);
      return;
    }
    get("play").textContent = "◼ Stop";
    const follow = () => {
      if (sound.paused) return;
      if (sound.ended || sound.currentTime >= end) {
        this.#stop();
        return;
      }
      this.at = sound.currentTime;
      this.#draw();
      requestAnimationFrame(follow);
    };
    sound.onended = () => this.#stop();
    follow();
  }

  #unplayable(error) {
    get("why").close();
    this.fail(new Error(`the browser cannot play this recording (${error.message})`));
  }

  #stop() {
    this.sound.pause();
    this.at = null;
    get("play").textContent = "▶ Play the stretch";
    if (this.attention) this.#draw();
  }

  #wireMap(canvas) {
    canvas.addEventListener("click", (event) => {
      const { box, width, height, rows, cols } = this.attention;
      const frame = canvas.getBoundingClientRect();
      const x = ((event.clientX - frame.left) / frame.width) * width;
      const y = ((event.clientY - frame.top) / frame.height) * height;
      const col = Math.floor(((x - box[0]) / (box[2] - box[0])) * cols);
      const row = Math.floor(((y - box[1]) / (box[3] - box[1])) * rows);
      const inside = row >= 0 && row < rows && col >= 0 && col < cols;
      const patch = inside ? row * cols + col : -1;
      this.#pick(patch === this.patch ? -1 : patch);
    });
    canvas.addEventListener("keydown", (event) => {
      const { rows, cols } = this.attention;
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (move) {
        const start = this.patch < 0 ? [Math.floor(rows / 2), Math.floor(cols / 2)] : [Math.floor(this.patch / cols) + move[0], (this.patch % cols) + move[1]];
        const [row, col] = [Math.min(rows - 1, Math.max(0, start[0])), Math.min(cols - 1, Math.max(0, start[1]))];
        this.#pick(row * cols + col);
        event.preventDefault();
      } else if (event.key === "Escape" && this.patch >= 0) {
        this.#pick(-1);
        event.preventDefault(); // keeps the dialog open
      }
    });
  }

  #wireLine(canvas) {
    let start = null;
    const time = (event) => {
      const frame = canvas.getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - frame.left) / frame.width)) * this.attention.seconds;
    };
    canvas.addEventListener("pointerdown", (event) => {
      start = time(event);
      canvas.setPointerCapture(event.pointerId);
      this.#choose(start, start);
    });
    canvas.addEventListener("pointermove", (event) => start !== null && this.#choose(start, time(event)));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (start = null));
  }
}

function facts(list, pair, attention) {
  const rows = [
    ["similarity", pair.score?.toFixed(3) ?? "none"],
    ...(pair.probability === null ? [] : [["match", chance(pair.probability)]]),
    ["patches", `${attention.rows} × ${attention.cols}`],
  ];
  list.replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement("div");
    for (const [tag, text] of [["dt", name], ["dd", value]]) {
      row.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
    return row;
  }));
}

// Formats a probability in percent, never as 0 % or 100 %.
export function chance(probability) {
  const percent = 100 * probability;
  return percent > 99.9 ? "> 99.9 %" : percent < 0.1 ? "< 0.1 %" : `${percent.toFixed(1)} %`;
}

// Draws on canvases, in the colours of the style sheet.

import { clock } from "./dom.js";

// Clears a canvas; returns its context in CSS pixels, scaled for dense screens, and its size.
export function sheet(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const ink = canvas.getContext("2d");
  ink.scale(ratio, ratio);
  return { ink, width, height };
}

export const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const BAR = 3; // pixels of a bar and the gap after it

// Returns the largest value in each of `bars` columns.
function columns(values, bars) {
  const out = new Float32Array(bars);
  for (let i = 0; i < bars; i++) {
    const start = Math.floor((i * values.length) / bars);
    const end = Math.max(start + 1, Math.floor(((i + 1) * values.length) / bars));
    for (let j = start; j < end && j < values.length; j++) out[i] = Math.max(out[i], values[j]);
  }
  return out;
}

function bars(ink, left, middle, tall, width, peaks, paint) {
  const count = Math.max(1, Math.floor(width / BAR));
  const loudest = Math.max(0.05, ...peaks);
  columns(peaks, count).forEach((peak, i) => {
    const half = Math.max(1, (peak / loudest) * tall);
    ink.fillStyle = paint((i + 0.5) / count);
    ink.fillRect(left + i * BAR, middle - half, BAR - 1, 2 * half);
  });
}

// Draws the waveform of a whole recording; `played` is the share that has been played.
export function wave(canvas, peaks, played = 0) {
  const { ink, width, height } = sheet(canvas);
  if (!peaks.length) {
    ink.fillStyle = colour("line");
    ink.fillRect(0, height / 2 - 0.5, width, 1);
    return;
  }
  const [ahead, behind] = [colour("accent"), colour("faint")];
  const paint = (x) => (played && x > played ? behind : ahead);
  bars(ink, 0, height / 2, height / 2 - 6, width, peaks, paint);
}

// Draws the last seconds of a recording in progress, the newest at the right.
export function live(canvas, peaks) {
  const { ink, width, height } = sheet(canvas);
  const count = Math.floor(width / BAR);
  const recent = peaks.slice(-count);
  ink.fillStyle = colour("live");
  recent.forEach((peak, i) => {
    const half = Math.max(1, Math.min(1, peak * 1.4) * (height / 2 - 6));
    ink.fillRect((count - recent.length + i) * BAR, height / 2 - half, BAR - 1, 2 * half);
  });
}

// Draws a long recording: its waveform, the stretches that were found, and the player's position.
// view: { peaks, seconds, spans: [start, end] each, best first, chosen (one of them, or -1), at }.
export function outline(canvas, view) {
  const { ink, width, height } = sheet(canvas);
  if (!view.seconds) return;
  const [axis, flag] = [16, 16];
  const x = (seconds) => (seconds / view.seconds) * width;
  const tall = height - axis - flag;
  const found = (share) => view.spans.some(([start, end]) => share * view.seconds >= start && share * view.seconds < end);
  const wide = view.spans.map(([start, end]) => [x(start), Math.max(3, x(end) - x(start))]);
  ink.fillStyle = colour("band");
  for (const [left, size] of wide) ink.fillRect(left, flag, size, tall);
  const [ahead, there] = [colour("edge"), colour("accent")];
  if (view.peaks.length) bars(ink, 0, flag + tall / 2, tall / 2 - 2, width, view.peaks, (share) => (found(share) ? there : ahead));
  ticks(ink, view.seconds, width, height, axis);
  ink.font = "600 11px system-ui, sans-serif";
  ink.textAlign = "center";
  // The best is drawn last, over its neighbours.
  for (let n = wide.length - 1; n >= 0; n--) {
    const middle = Math.min(width - 8, Math.max(8, wide[n][0] + wide[n][1] / 2));
    ink.fillStyle = colour(n === view.chosen ? "live" : "accent");
    ink.fillRect(wide[n][0], flag, wide[n][1], 3);
    ink.beginPath();
    ink.arc(middle, flag / 2, 7, 0, 2 * Math.PI);
    ink.fill();
    ink.fillStyle = colour("on-accent");
    ink.fillText(String(n + 1), middle, flag / 2 + 4);
  }
  ink.fillStyle = colour("live");
  ink.fillRect(Math.min(width - 2, x(view.at)), flag, 2, tall);
}

// Writes times below a line.
function ticks(ink, seconds, width, height, axis) {
  ink.fillStyle = colour("soft");
  ink.font = "11px system-ui, sans-serif";
  const step = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600].find((each) => (each / seconds) * width > 56) ?? 7200;
  for (let time = 0; time <= seconds; time += step) {
    const x = (time / seconds) * width;
    ink.fillRect(x, height - axis, 1, 4);
    ink.textAlign = time === 0 ? "left" : x > width - 24 ? "right" : "center";
    ink.fillText(clock(time).replace(/\.0$/, ""), x, height - 1);
  }
}

// Draws a waveform below a curve over the same time axis, and marks the chosen interval.
// view: { peaks, curve [T], tint, from, to, at (position of the player, or null), seconds }; times
// are in seconds.
export function timeline(canvas, view) {
  const { ink, width, height } = sheet(canvas);
  const x = (seconds) => (seconds / view.seconds) * width;
  const [axis, tall] = [20, (height - 20) * 0.46];
  const inside = (share) => share * view.seconds >= view.from && share * view.seconds <= view.to;

  ink.fillStyle = colour("band");
  ink.fillRect(x(view.from), 0, x(view.to) - x(view.from), height - axis);
  const [speech, faint] = [colour("ink"), colour("faint")];
  const middle = tall + (height - axis - tall) / 2 + 2;
  bars(ink, 0, middle, (height - axis - tall) / 2 - 6, width, view.peaks, (share) => (inside(share) ? speech : faint));
  area(ink, view.curve, width, tall, colour(view.tint));

  ink.fillStyle = colour("soft");
  ink.font = "11px system-ui, sans-serif";
  const step = [0.5, 1, 2, 5, 10, 20, 60].find((each) => (each / view.seconds) * width > 48) ?? 120;
  for (let time = 0; time <= view.seconds; time += step) {
    ink.fillRect(x(time), height - axis, 1, 4);
    ink.textAlign = time === 0 ? "left" : x(time) > width - 20 ? "right" : "center";
    ink.fillText(`${+time.toFixed(1)} s`, x(time), height - 4);
  }
  ink.fillStyle = colour("accent");
  for (const edge of [view.from, view.to]) {
    ink.fillRect(Math.min(width - 2, Math.max(0, x(edge) - 1)), 0, 2, height - axis);
  }
  if (view.at !== null) {
    ink.fillStyle = colour("live");
    ink.fillRect(x(view.at) - 1, 0, 2, height - axis);
  }
}

function area(ink, curve, width, tall, tint) {
  const most = Math.max(1e-12, ...curve);
  const top = (value) => tall - (value / most) * (tall - 6);
  const trace = () => {
    ink.moveTo(0, top(curve[0]));
    curve.forEach((value, t) => ink.lineTo(((t + 0.5) / curve.length) * width, top(value)));
    ink.lineTo(width, top(curve.at(-1)));
  };
  ink.beginPath();
  trace();
  ink.lineTo(width, tall);
  ink.lineTo(0, tall);
  ink.closePath();
  ink.globalAlpha = 0.22;
  ink.fillStyle = tint;
  ink.fill();
  ink.globalAlpha = 1;
  ink.beginPath();
  trace();
  ink.strokeStyle = tint;
  ink.lineWidth = 1.6;
  ink.lineJoin = "round";
  ink.stroke();
}

// Draws the shade of a picture: dark where the attention is low.
// view: { shares [rows * cols], rows, cols, box: [left, top, right, bottom] as shares of the
// picture's width and height, patch (the chosen one, or -1) }.
export function map(canvas, view) {
  const { ink, width, height } = sheet(canvas);
  const [left, top, right, bottom] = view.box.map((side, i) => side * (i % 2 ? height : width));
  const most = Math.max(1e-12, ...view.shares);
  const small = new OffscreenCanvas(view.cols, view.rows);
  const pixels = new ImageData(view.cols, view.rows);
  view.shares.forEach((share, i) => {
    // Relative to 0 and the largest share, so that equal shares are all bright.
    pixels.data.set([8, 8, 24, 255 * 0.88 * (1 - (share / most) ** 1.4)], 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  ink.fillStyle = "rgba(8, 8, 24, 0.88)"; // outside of the encoder's square input
  ink.fillRect(0, 0, width, height);
  ink.clearRect(left, top, right - left, bottom - top);
  ink.imageSmoothingQuality = "high";
  ink.drawImage(small, left, top, right - left, bottom - top);
  if (view.patch >= 0) {
    const [w, h] = [(right - left) / view.cols, (bottom - top) / view.rows];
    ink.strokeStyle = colour("patch");
    ink.lineWidth = 2;
    ink.strokeRect(left + (view.patch % view.cols) * w + 1, top + Math.floor(view.patch / view.cols) * h + 1, w - 2, h - 2);
  }
}

// The page: sends queries, shows results, and opens the dialog that explains a pair.

import * as api from "./api.js";
import * as draw from "./draw.js";
import { chance, Why } from "./explain.js";
import { Microphone } from "./microphone.js";
import { Typed } from "./typed.js";

const get = (id) => document.getElementById(id);
const element = (tag, fields = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
};

const KINDS = ["speech", "picture"];
const queries = { speech: null, picture: null }; // { kind, name, url } and { blob } or { text, language }
const answers = { speech: null, picture: null };
const player = new Audio();
let about = null;
let kind = "speech";
let microphone = null;
let running = null; // aborts the search that a newer one replaces

function fail(error) {
  get("error-text").textContent = error.message;
  get("error").hidden = false;
  get("error").scrollIntoView({ block: "nearest" });
}

function clearError() {
  get("error").hidden = true;
}

const why = new Why(fail);

async function explain(pair) {
  document.body.classList.add("waiting");
  await why.open(pair);
  document.body.classList.remove("waiting");
}

// ---- queries

function take(queryKind, blob, name) {
  if (!about) return;
  clearError();
  if (blob.size > about.limits.bytes) {
    fail(new Error(`${name}: ${(blob.size / 1e6).toFixed(1)} MB is over the limit of ${about.limits.bytes / 1e6} MB; make it smaller`));
    return;
  }
  ask({ kind: queryKind, blob, name, url: URL.createObjectURL(blob) });
}

const typed = new Typed((text, language, spoken) => {
  if (microphone) finishRecording(false);
  clearError();
  ask({ kind: "speech", text, language, name: `“${text}” in ${spoken}`, url: "" });
}, fail);

function ask(query) {
  player.pause();
  if (queries[query.kind]?.blob) URL.revokeObjectURL(queries[query.kind].url);
  queries[query.kind] = query;
  answers[query.kind] = null;
  show(query.kind);
  search();
}

async function search() {
  const query = queries[kind];
  if (!query) return;
  running?.abort();
  const mine = (running = new AbortController());
  get("status").textContent = query.text === undefined ? "Searching …" : "Voices say it, then pictures are searched …";
  document.body.classList.add("busy");
  try {
    const rerank = get("rerank").checked && !get("rerank").disabled;
    const answer = await api.search(query, get("k").value, rerank, mine.signal);
    if (mine !== running) return;
    clearError();
    answers[query.kind] = answer;
    if (query.text !== undefined) query.url = api.queryUrl(answer.token);
  } catch (error) {
    if (mine !== running) return;
    answers[query.kind] = null;
    fail(error);
  }
  running = null;
  document.body.classList.remove("busy");
  show(kind);
}

// ---- results

function show(next) {
  kind = next;
  for (const each of KINDS) {
    get(`tab-${each}`).setAttribute("aria-selected", String(each === kind));
    get(`tab-${each}`).tabIndex = each === kind ? 0 : -1;
    get(`panel-${each}`).hidden = each !== kind;
  }
  get("pictures").hidden = kind !== "speech";
  get("recordings").hidden = kind !== "picture";
  const answer = answers[kind];
  showQuery(answer);
  showTiming(answer);
  get("pictures").replaceChildren(...(kind === "speech" && answer ? answer.results.map(pictureCard) : []));
  get("recordings").replaceChildren(...(kind === "picture" && answer ? answer.results.map(recordingRow) : []));
  get("status").textContent = answer ? summary(answer) : "";
}

function summary(answer) {
  const items = kind === "speech" ? "pictures" : "recordings";
  if (!answer.total) return `The index holds no ${items}: nothing can be found.`;
  const quiet = answer.quiet ? " The recording is almost silent: is the microphone muted?" : "";
  const by = answer.timing.rerank === undefined ? "by similarity" : "by similarity and match together";
  return `Best ${answer.results.length} of ${answer.total} ${items}, ${by}.${quiet}`;
}

function showQuery(answer) {
  const query = queries[kind];
  if (kind === "picture") {
    get("query-picture").hidden = !query;
    if (query && get("query-picture").src !== query.url) get("query-picture").src = query.url;
    get("picture-name").textContent = query?.name ?? "Give a picture, hear who describes it.";
    return;
  }
  get("play-query").disabled = !query?.url;
  if (microphone) return;
  if (query) get("query-name").textContent = query.name;
  const peaks = answer?.peaks ?? [];
  const voices = answer?.voices ? `, by ${answer.voices.length} voices` : "";
  const length = answer ? `${query.name}${voices}, ${answer.seconds.toFixed(1)} s` : "none yet";
  if (answer) get("query-name").textContent = length;
  get("wave").setAttribute("aria-label", `Waveform of the query: ${length}`);
  draw.wave(get("wave"), peaks);
}

function showTiming(answer) {
  const shown = Object.entries(answer?.timing ?? {}).map(([stage, time]) => {
    const shown = time < 1000 ? `${time.toFixed(time < 10 ? 1 : 0)} ms` : `${(time / 1000).toFixed(1)} s`;
    return element("li", {}, `${stage === "rerank" ? "re-rank" : stage} `, element("b", { textContent: shown }));
  });
  get("timing").replaceChildren(...shown);
}

// Re-ranked results are ordered by both scores together, so neither score need be in order itself.
function scores(hit) {
  const similarity = hit.score?.toFixed(3) ?? "none";
  const bar = element("i");
  bar.style.width = `${100 * Math.max(0, Math.min(1, hit.score ?? 0))}%`;
  const out = [
    element("span", { className: "score", title: "cosine similarity", textContent: similarity }),
    element("span", { className: "bar", ariaHidden: "true" }, bar),
  ];
  // Without a calibration there is no probability, and raw log-odds would only mislead.
  if (hit.probability !== null) {
    const title = "how often a result with this score is right, as measured on a validation split";
    out.push(element("span", { className: "second", title, textContent: `match ${chance(hit.probability)}` }));
  }
  return out;
}

// A time within a recording: 1:02:05.3.
function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  const [hours, minutes, rest] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60, tenths % 600];
  const tail = `${String(Math.floor(rest / 10)).padStart(2, "0")}.${rest % 10}`;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

const pair = (hit) => ({ token: answers[kind].token, id: hit.id, name: hit.id, score: hit.score, probability: hit.probability });

function pictureCard(hit, index) {
  const image = element("img", { src: api.thumbnailUrl(hit.id), alt: hit.id, loading: "lazy", width: 240, height: 240 });
  image.addEventListener("error", () => image.replaceWith(element("span", { className: "gone", textContent: "cannot be shown" })));
  const button = element("button", { type: "button", className: "card", title: hit.id });
  button.append(image, element("span", { className: "caption" }, element("span", { className: "rank", textContent: index + 1 }), ...scores(hit)));
  button.setAttribute("aria-label", `${index + 1}: ${hit.id}, similarity ${hit.score?.toFixed(3)}. Explain`);
  button.addEventListener("click", () =>
    explain({ ...pair(hit), picture: api.pictureUrl(hit.id), sound: queries.speech.url }));
  return element("li", {}, button);
}

function recordingRow(hit, index) {
  // A long recording begins where the picture is spoken of.
  const [best] = hit.moments;
  const from = best ? `#t=${best[0].toFixed(2)},${best[1].toFixed(2)}` : "";
  const sound = element("audio", { controls: true, preload: "metadata", src: api.recordingUrl(hit.id) + from });
  sound.setAttribute("aria-label", `Recording ${hit.id}`);
  sound.addEventListener("play", () => document.querySelectorAll("audio").forEach((each) => each !== sound && each.pause()));
  const button = element("button", { type: "button", className: "button", textContent: "Explain" });
  button.setAttribute("aria-label", `Explain ${hit.id}`);
  button.addEventListener("click", () =>
    explain(best
      ? { ...pair(hit), picture: queries.picture.url, sound: api.spanUrl(hit.id, best), span: best.slice(0, 2), score: best[2] }
      : { ...pair(hit), picture: queries.picture.url, sound: api.recordingUrl(hit.id) }));
  const places = hit.moments.map(([start, end, score]) => {
    const title = `similarity ${score.toFixed(3)}, to ${clock(end)}`;
    const place = element("button", { type: "button", className: "quiet", title, textContent: `▶ ${clock(start)}` });
    place.setAttribute("aria-label", `Play ${hit.id} from ${clock(start)}, ${title}`);
    place.addEventListener("click", () => {
      sound.src = `${api.recordingUrl(hit.id)}#t=${start.toFixed(2)},${end.toFixed(2)}`;
      sound.play().catch((error) => error.name === "AbortError" || fail(new Error("the browser cannot play this recording")));
    });
    return place;
  });
  return element("li", {},
    element("span", { className: "rank", textContent: index + 1 }),
    element("span", { className: "name", title: hit.id, textContent: hit.id }),
    element("span", { className: "scores" }, ...scores(hit)), sound, button,
    ...(places.length ? [element("span", { className: "places" }, "spoken of at ", ...places)] : []));
}

// ---- the microphone

async function record() {
  if (microphone) {
    finishRecording();
    return;
  }
  clearError();
  player.pause();
  const heard = [];
  const limit = about.limits.seconds;
  microphone = new Microphone(limit, (piece, seconds) => {
    // Two bars per piece of 2048 samples.
    for (let i = 0; i < piece.length; i += 1024) {
      heard.push(piece.subarray(i, i + 1024).reduce((most, value) => Math.max(most, Math.abs(value)), 0));
    }
    const level = Math.min(1, heard.at(-1));
    get("level").setAttribute("aria-valuenow", String(Math.round(100 * level)));
    get("level").firstElementChild.style.width = `${100 * level}%`;
    get("clock").textContent = `${seconds.toFixed(1)} / ${limit} s`;
    draw.live(get("wave"), heard);
  }, () => finishRecording());
  showRecording(true);
  try {
    await microphone.start();
  } catch (error) {
    microphone = null;
    showRecording(false);
    fail(error);
  }
}

async function finishRecording(keep = true) {
  const done = microphone;
  if (!done) return;
  microphone = null;
  showRecording(false);
  const blob = await done.stop();
  if (!keep) return;
  if (blob) take("speech", blob, "recording.wav");
  else fail(new Error("nothing was recorded; hold on a moment longer"));
}

function showRecording(on) {
  get("record").setAttribute("aria-pressed", String(on));
  get("record-label").textContent = on ? "Stop and search" : "Record";
  for (const id of ["level", "clock"]) get(id).hidden = !on;
  for (const id of ["query-name", "play-query"]) get(id).hidden = on;
  get("clock").textContent = "waiting for the microphone …";
  if (on) draw.live(get("wave"), []);
  else showQuery(answers.speech);
}

// ---- event handlers

function wireTabs() {
  for (const each of KINDS) get(`tab-${each}`).addEventListener("click", () => show(each));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    show(kind === "speech" ? "picture" : "speech");
    get(`tab-${kind}`).focus();
  });
}

function wireFiles() {
  for (const each of KINDS) {
    const input = get(`file-${each}`);
    input.addEventListener("change", () => {
      if (input.files.length) take(each, input.files[0], input.files[0].name);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    const file = event.dataTransfer.files[0];
    if (!file) return;
    const fileKind = file.type.startsWith("image/") ? "picture" : file.type.startsWith("audio/") ? "speech" : kind;
    take(fileKind, file, file.name);
  });
}

function wirePlayer() {
  const button = get("play-query");
  button.addEventListener("click", () => {
    if (!player.paused) {
      player.pause();
      return;
    }
    player.src = queries.speech.url;
    player.play().catch((error) => error.name === "AbortError" || fail(new Error("the browser cannot play this recording")));
  });
  const follow = () => {
    if (player.paused || !answers.speech) return;
    draw.wave(get("wave"), answers.speech.peaks, Math.max(0.001, player.currentTime / answers.speech.seconds));
    requestAnimationFrame(follow);
  };
  player.addEventListener("play", () => {
    button.textContent = "◼ Stop";
    follow();
  });
  player.addEventListener("pause", () => {
    button.textContent = "▶ Play";
    if (!microphone) draw.wave(get("wave"), answers.speech?.peaks ?? []);
  });
}

function describe(info) {
  about = info;
  get("fact-model").textContent = info.model;
  for (const each of ["pictures", "recordings"]) get(`fact-${each}`).textContent = info[each].toLocaleString("en");
  get("limit-seconds").textContent = info.limits.seconds;
  get("limit-pixels").textContent = info.limits.pixels / 1e6;
  get("k").max = info.limits.results;
  get("empty-speech").hidden = info.pictures > 0;
  get("empty-picture").hidden = info.recordings > 0;
  get("rerank").disabled = !info.can_match;
  get("rerank-note").textContent = info.can_match
    ? `the best ${info.rerank} are read again, pair by pair`
    : info.pooled
      ? `not with ${info.model}: its vectors hold the match already`
      : `not with ${info.model}: it has no matching head`;
  typed.describe(info);
  if (!info.pictures && info.recordings) show("picture");
}

async function start() {
  wireTabs();
  wireFiles();
  wirePlayer();
  get("record").addEventListener("click", record);
  get("error-close").addEventListener("click", clearError);
  get("k").addEventListener("input", () => (get("k-value").textContent = get("k").value));
  get("k").addEventListener("change", search);
  get("rerank").addEventListener("change", search);
  const redraw = () => microphone || draw.wave(get("wave"), answers.speech?.peaks ?? []);
  new ResizeObserver(redraw).observe(get("wave"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  try {
    describe(await api.info());
    document.body.dataset.ready = "yes";
  } catch (error) {
    fail(error);
  }
}

start();

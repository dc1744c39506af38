// The page: takes queries, searches with them, and shows what was found.

import * as api from "./api.js";
import { Batch } from "./batch.js";
import { clearError, element, fail, get, play } from "./dom.js";
import * as draw from "./draw.js";
import { Why } from "./explain.js";
import { wireFiles } from "./files.js";
import { Recorder } from "./recorder.js";
import { pictureCard, recordingRow, summary, wireArrows } from "./results.js";
import { Typed } from "./typed.js";
import { Work } from "./work.js";

const KINDS = ["speech", "picture"];
const MOST_PICTURES = 24; // that are searched with at once
// { kind, name, url, answer, error } and { blob, recorded } or { text, language }; several pictures.
const queries = { speech: [], picture: [] };
const player = new Audio();
const why = new Why(fail);
const work = new Work();
let about = null;
let kind = "speech";

async function explain(pair) {
  document.body.classList.add("waiting");
  await why.open(pair);
  document.body.classList.remove("waiting");
}

const rows = (query) => query.answer.results.map((hit, n) => recordingRow(query, hit, n, explain));
const batch = new Batch(rows);

// ---- queries

const newQuery = (fields) => ({ answer: null, error: null, ...fields });

function takeFiles(queryKind, files) {
  if (!about) return;
  clearError();
  const most = queryKind === "picture" ? MOST_PICTURES : 1;
  const asked = files.slice(0, most).map((blob) => ofFile(queryKind, blob, blob.name));
  // Of several, the others are searched with.
  if (asked.length === 1 && asked[0].error) fail(asked[0].error);
  else ask(asked);
  if (files.length > most) fail(new Error(`${files.length} files were given; ${most === 1 ? "one recording is" : `${most} pictures are`} searched with at once, and the others were left out`));
}

function ofFile(queryKind, blob, name, recorded = false) {
  const tooLarge = blob.size > about.limits.bytes
    ? new Error(`${name}: ${(blob.size / 1e6).toFixed(1)} MB is over the limit of ${about.limits.bytes / 1e6} MB; make it smaller`)
    : null;
  return newQuery({ kind: queryKind, blob, name, recorded, error: tooLarge, tooLarge, url: URL.createObjectURL(blob) });
}

const recorder = new Recorder((blob) => ask([ofFile("speech", blob, "recording.wav", true)]), (on) => {
  if (on) stopSounds();
  else showQuery();
});

const typed = new Typed((text, language, spoken) => {
  recorder.finish(false);
  clearError();
  ask([newQuery({ kind: "speech", text, language, name: `“${text}” in ${spoken}`, url: "" })]);
}, fail);

function ask(asked) {
  stopSounds();
  const [{ kind: askedKind }] = asked;
  for (const old of queries[askedKind]) if (old.blob) URL.revokeObjectURL(old.url);
  queries[askedKind] = asked;
  show(askedKind);
  search();
}

async function search() {
  const asked = queries[kind].filter((query) => !query.tooLarge);
  if (!asked.length) return;
  const several = queries[kind].length > 1;
  const [k, rerank] = [get("k").value, get("rerank").checked && !get("rerank").disabled];
  const first = asked[0].text === undefined ? "Searching …" : "Voices say it, then pictures are searched …";
  const whole = await work.run(first, async (signal, tell) => {
    for (const [n, query] of asked.entries()) {
      const before = several ? `Picture ${n + 1} of ${asked.length}: ` : "";
      await searchOne(query, k, rerank, signal, (stage, share) => tell(stage, share, before));
      if (query.error && !several) fail(query.error);
      else if (!several) clearError();
      if (several) batch.update(query);
    }
  });
  if (whole) show(kind);
}

async function searchOne(query, k, rerank, signal, tell) {
  try {
    query.answer = await api.search(query, k, rerank, signal, tell);
    query.error = null;
    if (query.text !== undefined) query.url = api.queryUrl(query.answer.token);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    Object.assign(query, { answer: null, error });
  }
}

// ---- results

function show(next) {
  kind = next;
  for (const each of KINDS) {
    get(`tab-${each}`).setAttribute("aria-selected", String(each === kind));
    get(`tab-${each}`).tabIndex = each === kind ? 0 : -1;
    get(`panel-${each}`).hidden = each !== kind;
  }
  const [query] = queries[kind];
  const several = queries[kind].length > 1;
  const answer = several ? null : query?.answer;
  get("pictures").hidden = kind !== "speech";
  get("recordings").hidden = kind !== "picture" || several;
  get("batch").hidden = !several;
  get("pictures").replaceChildren(...(kind === "speech" && answer ? answer.results.map((hit, n) => pictureCard(query, hit, n, explain)) : []));
  get("recordings").replaceChildren(...(kind === "picture" && answer ? rows(query) : []));
  if (several && batch.queries !== queries.picture) batch.show(queries.picture);
  showQuery();
  showTiming(answer);
  if (several) work.say(...ofSeveral(queries[kind]));
  else if (answer) work.say(...summary(query, about.limits.quiet));
  else work.say("");
}

function ofSeveral(asked) {
  const failed = asked.filter((query) => query.error).length;
  const done = asked.filter((query) => query.answer).length;
  const rest = failed ? `; ${failed} could not be searched with` : "";
  return [`${done} of ${asked.length} pictures searched with, each by itself${rest}. Unfold one to see its recordings.`, failed > 0];
}

function showQuery() {
  const [query] = queries[kind];
  if (kind === "picture") {
    const alone = queries.picture.length === 1;
    get("query-picture").hidden = !alone;
    if (alone && get("query-picture").src !== query.url) get("query-picture").src = query.url;
    get("picture-name").textContent = alone ? query.name
      : query ? `${queries.picture.length} pictures` : "Give a picture, hear who describes it. Give several, and each is searched with by itself.";
    return;
  }
  get("play-query").disabled = !query?.url;
  if (recorder.on) return;
  const answer = query?.answer;
  const voices = answer?.voices ? `, by ${answer.voices.length} voices` : "";
  const length = answer ? `${query.name}${voices}, ${answer.seconds.toFixed(1)} s` : "none yet";
  if (query) get("query-name").textContent = answer ? length : query.name;
  get("wave").setAttribute("aria-label", `Waveform of the query: ${length}`);
  draw.wave(get("wave"), answer?.peaks ?? []);
}

function showTiming(answer) {
  const shown = Object.entries(answer?.timing ?? {}).map(([stage, time]) => {
    const text = time < 1000 ? `${time.toFixed(time < 10 ? 1 : 0)} ms` : `${(time / 1000).toFixed(1)} s`;
    return element("li", {}, `${stage === "rerank" ? "re-rank" : stage} `, element("b", { textContent: text }));
  });
  get("timing").replaceChildren(...shown);
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

function stopSounds() {
  player.pause();
  document.querySelectorAll("audio").forEach((each) => each.pause());
}

// Escape ends what is going on: a recording, then a search, then a sound. The dialog has its own.
function wireEscape() {
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || get("why").open) return;
    if (recorder.on) {
      recorder.finish(false);
      work.say("The recording was dropped.");
    } else if (work.busy) work.cancel();
    else stopSounds();
  });
}

function wirePlayer() {
  const button = get("play-query");
  const answer = () => queries.speech[0]?.answer;
  button.addEventListener("click", () => {
    if (!player.paused) {
      player.pause();
      return;
    }
    player.src = queries.speech[0].url;
    play(player);
  });
  const follow = () => {
    if (player.paused || !answer()) return;
    draw.wave(get("wave"), answer().peaks, Math.max(0.001, player.currentTime / answer().seconds));
    requestAnimationFrame(follow);
  };
  player.addEventListener("play", () => {
    button.textContent = "◼ Stop";
    follow();
  });
  player.addEventListener("pause", () => {
    button.textContent = "▶ Play";
    if (!recorder.on) draw.wave(get("wave"), answer()?.peaks ?? []);
  });
}

function describe(info) {
  about = info;
  get("fact-model").textContent = info.model;
  for (const each of ["pictures", "recordings"]) get(`fact-${each}`).textContent = info[each].toLocaleString("en");
  get("limit-seconds").textContent = info.limits.seconds;
  get("limit-pixels").textContent = info.limits.pixels / 1e6;
  get("limit-pictures").textContent = MOST_PICTURES;
  get("k").max = info.limits.results;
  get("empty-speech").hidden = info.pictures > 0;
  get("empty-picture").hidden = info.recordings > 0;
  get("rerank").disabled = !info.can_match;
  get("rerank-note").textContent = info.can_match
    ? `the best ${info.rerank} are read again, pair by pair`
    : info.pooled
      ? `not with ${info.model}: its vectors hold the match already`
      : `not with ${info.model}: it has no matching head`;
  recorder.limit = info.limits.seconds;
  typed.describe(info);
  if (!info.pictures && info.recordings) show("picture");
}

async function start() {
  wireTabs();
  wireFiles(takeFiles, () => kind);
  wirePlayer();
  wireEscape();
  wireArrows(get("pictures"));
  get("error-close").addEventListener("click", clearError);
  get("k").addEventListener("input", () => (get("k-value").textContent = get("k").value));
  get("k").addEventListener("change", search);
  get("rerank").addEventListener("change", search);
  const redraw = () => recorder.on || draw.wave(get("wave"), queries.speech[0]?.answer?.peaks ?? []);
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

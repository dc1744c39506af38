// What was found for one query: cards of pictures, rows of recordings, and a sentence about them.

import * as api from "./api.js";
import { element } from "./dom.js";
import { chance } from "./explain.js";
import { addressFrom, Timeline } from "./timeline.js";

// Returns [sentence, whether it is a warning]; quietest: dB of full scale, below which is silence.
export function summary(query, quietest) {
  const { answer } = query;
  const items = query.kind === "speech" ? "pictures" : "recordings";
  if (answer.quiet) {
    const remedy = query.recorded ? "Is the microphone muted, or another one chosen?" : "Is it the right file?";
    return [`Nothing was heard in ${query.name}: nowhere is it louder than ${quietest} dB, and below that no word is understood. ${remedy}`, true];
  }
  if (!answer.total) return [`The index holds no ${items}: nothing can be found.`, true];
  const by = answer.timing.rerank === undefined ? "by similarity" : "by similarity and match together";
  return [`Best ${answer.results.length} of ${answer.total} ${items}, ${by}.`, false];
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

const pair = (query, hit) => ({ token: query.answer.token, id: hit.id, name: hit.id, score: hit.score, probability: hit.probability });

// explain(pair) opens the dialog.
export function pictureCard(query, hit, index, explain) {
  const image = element("img", { src: api.thumbnailUrl(hit.id), alt: hit.id, loading: "lazy", width: 240, height: 240 });
  image.addEventListener("error", () => image.replaceWith(element("span", { className: "gone", textContent: "cannot be shown" })));
  const button = element("button", { type: "button", className: "card", title: hit.id });
  button.append(image, element("span", { className: "caption" }, element("span", { className: "rank", textContent: index + 1 }), ...scores(hit)));
  button.setAttribute("aria-label", `${index + 1}: ${hit.id}, similarity ${hit.score?.toFixed(3)}. Explain`);
  button.addEventListener("click", () =>
    explain({ ...pair(query, hit), picture: api.pictureUrl(hit.id), sound: query.url }));
  return element("li", {}, button);
}

export function recordingRow(query, hit, index, explain) {
  // A long recording begins where the picture is spoken of.
  const [best] = hit.moments;
  const source = best ? addressFrom(hit.id, best[0], best[1]) : api.recordingUrl(hit.id);
  const sound = element("audio", { controls: true, preload: "metadata", src: source });
  sound.setAttribute("aria-label", `Recording ${hit.id}`);
  sound.addEventListener("play", () => document.querySelectorAll("audio").forEach((each) => each !== sound && each.pause()));
  const button = element("button", { type: "button", className: "button", textContent: "Explain" });
  button.setAttribute("aria-label", `Explain ${hit.id}`);
  button.addEventListener("click", () =>
    explain(best
      ? { ...pair(query, hit), picture: query.url, sound: api.spanUrl(hit.id, best), span: best.slice(0, 2), score: best[2] }
      : { ...pair(query, hit), picture: query.url, sound: api.recordingUrl(hit.id) }));
  return element("li", {},
    element("span", { className: "rank", textContent: index + 1 }),
    element("span", { className: "name", title: hit.id, textContent: hit.id }),
    element("span", { className: "scores" }, ...scores(hit)), sound, button,
    ...(best ? [new Timeline(hit, sound).node] : []));
}

// Lets the arrow keys go from card to card.
export function wireArrows(list) {
  list.addEventListener("keydown", (event) => {
    const cards = [...list.querySelectorAll(".card")];
    const at = cards.indexOf(document.activeElement);
    if (at < 0) return;
    const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const goal = { Home: 0, End: cards.length - 1 }[event.key] ?? (step && at + step);
    if (goal === undefined) return;
    cards[goal]?.focus();
    event.preventDefault();
  });
}

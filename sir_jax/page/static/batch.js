// Several pictures at once: each is a query of its own, with a folded section of its own results.

import { clock, element, get } from "./dom.js";

export class Batch {
  // rows(query) returns the list items of a query's results.
  constructor(rows) {
    Object.assign(this, { rows, queries: [], sections: [] });
  }

  // Makes a section for each query. All are folded, so that what is best for each is seen at a glance.
  show(queries) {
    this.queries = queries;
    this.sections = queries.map((query) => this.#section(query));
    get("batch").replaceChildren(...this.sections.map((section) => section.node));
    for (const section of this.sections) this.#fill(section);
  }

  // Shows what has been found for a query since.
  update(query) {
    const section = this.sections.find((each) => each.query === query);
    if (section) this.#fill(section);
  }

  #section(query) {
    const best = element("span", { className: "best" });
    const list = element("ol", { className: "recordings" });
    list.setAttribute("aria-label", `Recordings found for ${query.name}, best first`);
    const head = element("summary", {},
      element("img", { src: query.url, alt: "", width: 56, height: 56 }),
      element("span", { className: "name", title: query.name, textContent: query.name }), best);
    const node = element("details", { className: "found" }, head, list);
    const section = { query, node, list, best, shown: null };
    node.addEventListener("toggle", () => this.#fill(section));
    return section;
  }

  // Rows are made when a section is unfolded: a hundred players would load a hundred recordings.
  #fill(section) {
    const { query, node, list, best } = section;
    best.textContent = inShort(query);
    best.classList.toggle("warning", query.error !== null);
    if (!node.open || section.shown === query.answer) return;
    section.shown = query.answer;
    list.replaceChildren(...(query.answer ? this.rows(query) : []));
  }
}

function inShort({ answer, error }) {
  if (error) return error.message;
  if (!answer) return "not searched yet";
  const [hit] = answer.results;
  if (!hit) return "nothing found";
  const [[start, , , clear] = []] = hit.moments;
  const at = start === undefined ? "" : `, ${clear ? "at" : "perhaps at"} ${clock(start)}`;
  return `best: ${hit.id.split("/").pop()}${at} (${hit.score?.toFixed(3) ?? "none"})`;
}

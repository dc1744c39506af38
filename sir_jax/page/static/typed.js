// The field for words that voices of the machine say.

import { get } from "./dom.js";

const REMEMBERED = "sir_jax.language";

export class Typed {
  // `ask` is called with the words, the code and the name of their language; `fail` with an Error.
  constructor(ask, fail) {
    this.most = 0;
    get("typed").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = get("say").value.trim();
      const { value, selectedOptions } = get("language");
      const letters = [...text].length;
      if (!text) fail(new Error("no words yet: type some, or speak"));
      else if (letters > this.most) fail(new Error(`the text has ${letters.toLocaleString("en")} letters; type at most ${this.most}`));
      else ask(text, value, selectedOptions[0].textContent);
      get("say").focus();
    });
    get("language").addEventListener("change", () => {
      remember(get("language").value);
      this.#mark();
    });
  }

  // Spelling is checked, and read aloud, in the language of the words.
  #mark() {
    get("say").lang = get("language").value;
  }

  // Offers the languages of `/api/info`; says how to get a voice where there is none.
  describe(info) {
    this.most = info.limits.letters;
    const options = info.languages.map(([code, name]) => new Option(name, code));
    get("language").replaceChildren(...options);
    const codes = info.languages.map(([code]) => code);
    const wanted = [remembered(), ...navigator.languages.map((each) => each.split("-")[0]), "en"];
    get("language").value = wanted.find((each) => codes.includes(each)) ?? codes[0] ?? "";
    this.#mark();
    for (const id of ["say", "language", "say-search"]) get(id).disabled = !codes.length;
    if (!codes.length) get("typed-note").textContent = `Nothing here can speak: ${info.mute}`;
  }
}

// A browser may forbid storage.
function remembered() {
  try {
    return localStorage.getItem(REMEMBERED);
  } catch {
    return null;
  }
}

function remember(code) {
  try {
    localStorage.setItem(REMEMBERED, code);
  } catch {}
}

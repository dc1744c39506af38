// Requests to the server. A refused request throws an Error with the server's message.

const GONE = "the server does not answer; is sir-jax demo still running?";
const PATIENCE = 400; // milliseconds, before and between the questions how far a search is

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(GONE);
  }
  const body = await answer.json().catch(() => ({ error: `the server answers ${answer.status}` }));
  if (!answer.ok) throw new Error(body.error);
  return body;
}

export const info = () => ask("/api/info");

// Searches with { kind, blob, name } or { text, language }. Calls tell("upload", share) while the
// file is sent, then tell(stage) when the server is at another stage.
export function search(query, k, rerank, signal, tell) {
  const form = new FormData();
  form.append("k", String(k));
  form.append("rerank", rerank ? "1" : "0");
  if (query.text === undefined) {
    form.append(query.kind, query.blob, query.name);
  } else {
    form.append("say", query.text);
    form.append("language", query.language);
  }
  const name = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16)).join("");
  const done = new AbortController();
  return send(form, name, signal, tell, () => follow(name, done.signal, tell)).finally(() => done.abort());
}

// Not `fetch`, which does not tell how much it has sent.
function send(form, name, signal, tell, onSent) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", "/api/search");
    call.setRequestHeader("watch", name);
    call.upload.addEventListener("progress", (event) => event.lengthComputable && tell("upload", event.loaded / event.total));
    call.upload.addEventListener("load", onSent);
    call.addEventListener("error", () => reject(new Error(GONE)));
    call.addEventListener("load", () => {
      let body;
      try {
        body = JSON.parse(call.responseText);
      } catch {
        body = { error: `the server answers ${call.status}` };
      }
      if (call.status === 200) resolve(body);
      else reject(new Error(body.error));
    });
    signal.addEventListener("abort", () => {
      call.abort();
      reject(new DOMException("cancelled", "AbortError"));
    });
    call.send(form);
  });
}

async function follow(name, signal, tell) {
  let last = "";
  for (;;) {
    await new Promise((go) => setTimeout(go, PATIENCE));
    if (signal.aborted) return;
    const { stage } = await ask(`/api/progress/${name}`, { signal }).catch(() => ({}));
    if (signal.aborted) return;
    if (stage && stage !== last) tell((last = stage));
  }
}

// `span`: [start, end] in seconds, of a long recording.
export function explain(token, id, span) {
  const headers = { "content-type": "application/json" };
  return ask("/api/explain", { method: "POST", headers, body: JSON.stringify({ token, id, span }) });
}

// A file name may contain half of a surrogate pair, which encodeURIComponent refuses.
const wellFormed = (id) => (id.isWellFormed?.() ?? true ? id : id.toWellFormed());
const path = (id) => wellFormed(id).split("/").map(encodeURIComponent).join("/");

export const pictureUrl = (id) => `/api/picture/${path(id)}`;
export const thumbnailUrl = (id) => `/api/picture/${path(id)}?size=thumbnail`;
export const queryUrl = (token) => `/api/query/${token}`;
export const recordingUrl = (id) => `/api/recording/${path(id)}`;
export const spanUrl = (id, [start, end]) => `${recordingUrl(id)}?span=${start},${end}`;

// Outlines are asked for one after the other: the browser has few connections to a server.
const outlines = new Map();
let queue = Promise.resolve();

// Returns the { seconds, peaks } of a whole recording, or null if nobody wants them any more.
export function outline(id, isWanted) {
  if (outlines.has(id)) return Promise.resolve(outlines.get(id));
  const asked = queue.then(async () => {
    if (!outlines.has(id) && isWanted()) outlines.set(id, await ask(`/api/outline/${path(id)}`));
    return outlines.get(id) ?? null;
  });
  queue = asked.catch(() => {});
  return asked;
}

// Decodes base64 of little-endian float32.
export function floats(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

// Requests to the server. A refused request throws an Error with the server's message.

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer; is sir-jax demo still running?");
  }
  const body = await answer.json().catch(() => ({ error: `the server answers ${answer.status}` }));
  if (!answer.ok) throw new Error(body.error);
  return body;
}

export const info = () => ask("/api/info");

export function search(query, k, rerank, signal) {
  const form = new FormData();
  form.append("k", String(k));
  form.append("rerank", rerank ? "1" : "0");
  if (query.text === undefined) {
    form.append(query.kind, query.blob, query.name);
  } else {
    form.append("say", query.text);
    form.append("language", query.language);
  }
  return ask("/api/search", { method: "POST", body: form, signal });
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

// Decodes base64 of little-endian float32.
export function floats(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

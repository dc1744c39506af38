// Short names for what every part of the page does with the document.

export const get = (id) => document.getElementById(id);

export function element(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

// A time within a recording: 1:02:05.3.
export function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  const [hours, minutes, rest] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60, tenths % 600];
  const tail = `${String(Math.floor(rest / 10)).padStart(2, "0")}.${rest % 10}`;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

export function fail(error) {
  get("error-text").textContent = error.message;
  get("error").hidden = false;
  get("error").scrollIntoView({ block: "nearest" });
}

export function clearError() {
  get("error").hidden = true;
}

// Another sound that begins, or an element that is taken away, breaks off `play`: no error.
export function play(sound) {
  sound.play().catch((error) => error.name === "AbortError" || fail(new Error("the browser cannot play this recording")));
}

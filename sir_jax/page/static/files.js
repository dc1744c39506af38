// Files that are chosen or dropped.

import { get } from "./dom.js";

// take(kind, files) gets all that were given at once; kindNow() is that of the tab.
export function wireFiles(take, kindNow) {
  for (const kind of ["speech", "picture"]) {
    const input = get(`file-${kind}`);
    input.addEventListener("change", () => {
      if (input.files.length) take(kind, [...input.files]);
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
    const files = [...event.dataTransfer.files];
    if (!files.length) return;
    const kind = kindOf(files[0]) ?? kindNow();
    take(kind, files.filter((file) => (kindOf(file) ?? kind) === kind));
  });
}

function kindOf(file) {
  return file.type.startsWith("image/") ? "picture" : file.type.startsWith("audio/") ? "speech" : null;
}

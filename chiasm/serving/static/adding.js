// Send files to the collection: those of one name are one item, and the folder that they lie in is its label.

import * as api from "./api.js";

// Of a folder that was chosen, names hold the path below it; hidden files are left out, as the command leaves them.
function itemsOf(files) {
  const items = new Map();
  for (const file of files) {
    const path = file.webkitRelativePath || file.name;
    if (path.split("/").some((part) => part.startsWith("."))) continue;
    const stem = path.replace(/\.[^./]+$/, "");
    if (!items.has(stem)) items.set(stem, { name: path, folder: path.split("/").slice(1, -1).at(-1) ?? "", files: [] });
    items.get(stem).files.push(file);
  }
  return [...items.values()];
}

// Add files one item after the other; `tell` is given how many are done of how many. One that cannot be used stops no other.
export async function addFiles(files, { tell, signal = null }) {
  const items = itemsOf(files);
  const outcome = { added: 0, total: items.length, last: "", problems: [] };
  for (const [place, item] of items.entries()) {
    if (signal?.aborted) break;
    tell(place, items.length);
    try {
      outcome.last = await api.add(item.files, item.folder);
      outcome.added += 1;
    } catch (error) {
      outcome.problems.push([item.name, error.message]);
    }
  }
  return outcome;
}

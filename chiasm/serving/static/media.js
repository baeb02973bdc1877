// Pictures, players and texts of items.

import { clock, h } from "./dom.js";

const LONGEST = 200; // characters of a text that stand for it
const NAMES = { image: "picture", text: "text", audio: "sound", video: "video" };

export function captionOf(id, item) {
  const text = item?.media.find((medium) => medium.modality === "text" && medium.text)?.text.trim();
  if (text && text.length > LONGEST) return `${text.slice(0, LONGEST)}…`;
  return text ? text : id.split("/").pop().replaceAll("_", " ");
}

// A file starts at the moment that was found (media fragments, W3C).
function player(tag, url, start, end) {
  const fragment = start === null || start === undefined ? "" : `#t=${start.toFixed(1)},${end.toFixed(1)}`;
  return h(tag, { src: url + fragment, controls: true, preload: "metadata" });
}

export function medium({ modality, url, text, start = null, end = null }, alt = "") {
  if (modality === "image" && url) return h("img", { src: url, alt, loading: "lazy", decoding: "async" });
  if (modality === "audio" && url) return player("audio", url, start, end);
  if (modality === "video" && url) return player("video", url, start, end);
  return h("blockquote", {}, text ?? NAMES[modality]);
}

export function span(modality, { start, end }) {
  if (modality === "text") return `characters ${start.toLocaleString("en")} to ${end.toLocaleString("en")}`;
  return `${clock(start)} to ${clock(end)}`;
}

export function moments(hit, root) {
  if (!hit.moments.length) return null;
  if (hit.modality === "text") {
    return h("ol", { class: "moments" }, hit.moments.map((passage) => h("li", {},
      h("details", {}, h("summary", {}, span("text", passage)), passage.text))));
  }
  const jump = (start) => {
    const element = root().querySelector("audio, video");
    if (element) { element.currentTime = start; element.play(); }
  };
  return h("ol", { class: "moments" }, hit.moments.map((moment) => h("li", {},
    h("button", { type: "button", onclick: () => jump(moment.start) }, span(hit.modality, moment)),
    moment.text ? ` ${moment.text}` : "")));
}

export function details(metadata) {
  const rows = Object.entries(metadata).filter(([, value]) => value !== null && value !== "");
  return rows.length ? h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])) : null;
}

export function showItem(item) {
  const dialog = document.getElementById("item");
  const close = h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×");
  dialog.replaceChildren(close, h("h2", {}, captionOf(item.id, item)), h("p", { class: "note" }, item.id),
    ...item.media.map((one) => medium(one, captionOf(item.id, item))), details(item.metadata) ?? "");
  if (!dialog.open) dialog.showModal();
}

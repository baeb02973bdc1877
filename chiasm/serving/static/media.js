// Pictures, players and texts of items.

import { button, clock, h, number, percent } from "./dom.js";

const SIZES = [160, 320, 640, 1280]; // previews that the server makes
const NAMES = { image: "picture", text: "text", audio: "sound", video: "video" };

// The smallest preview that is sharp at a width on this screen.
export function previewOf(preview, width) {
  const wanted = width * Math.min(window.devicePixelRatio || 1, 2);
  return `${preview}&size=${SIZES.find((size) => size >= wanted * 0.9) ?? SIZES.at(-1)}`;
}

const BANDS = { good: "Good match", possible: "Possible match", unlikely: "Unlikely match" };

// How sure a hit is: a word, and the probability behind it; where none is known, the score.
export function worth(hit) {
  if (hit.band) return h("span", { class: `band ${hit.band}` }, `${BANDS[hit.band]} · ${percent(hit.probability)}`);
  return hit.score === null || hit.score === undefined ? null : h("span", { class: "band" }, `score ${hit.score.toFixed(2)}`);
}

// A file starts at the moment that was found (media fragments, W3C).
export function player(modality, url, start, end) {
  const fragment = start === null || start === undefined ? "" : `#t=${start.toFixed(1)},${end.toFixed(1)}`;
  return h(modality, { src: url + fragment, controls: true, preload: "metadata", class: "player" });
}

export function span(modality, { start, end }) {
  if (modality === "text") return `characters ${number(start)} to ${number(end)}`;
  return `${clock(start)} to ${clock(end)}`;
}

// What stands for a hit in a grid: its picture, else its words or a sound to listen to.
export function thumbnail(hit, width) {
  if (hit.preview) {
    const image = h("img", { alt: hit.caption, loading: "lazy", decoding: "async", src: previewOf(hit.preview, width), draggable: false });
    image.addEventListener("error", () => image.replaceWith(tile(hit)), { once: true });
    return image;
  }
  return tile(hit);
}

function tile(hit) {
  if (hit.modality === "audio" && hit.url) return h("span", { class: "tile sound" }, h("span", { class: "wave", "aria-hidden": "true" }));
  return h("span", { class: "tile words" }, hit.modality === "text" ? hit.text ?? hit.caption : NAMES[hit.modality] ?? "item");
}

// A button that plays a sound where it stands; one sound at a time.
let playing = null;
export function listen(hit) {
  const control = button("Play", () => {
    if (playing?.control === control) return playing.stop();
    playing?.stop();
    const sound = new Audio(hit.url);
    const stop = () => { sound.pause(); control.replaceChildren(...button("Play", null, { icon: "play" }).childNodes); playing = null; };
    if (hit.start !== null && hit.start !== undefined) sound.currentTime = hit.start;
    sound.addEventListener("ended", stop);
    control.replaceChildren(...button("Stop", null, { icon: "pause" }).childNodes);
    playing = { control, stop };
    return sound.play().catch(stop);
  }, { icon: "play", class: "listen", data: { act: "play" } });
  return control;
}

export function shown(value) {
  if (value === null || value === undefined || value === "") return "none";
  return typeof value === "number" ? (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)))) : String(value);
}

export function details(metadata) {
  const rows = Object.entries(metadata).filter(([, value]) => value !== null && value !== "");
  return rows.length ? h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, shown(value))])) : null;
}

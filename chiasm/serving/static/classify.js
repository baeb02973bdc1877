// Classify: recognise dropped files, review items of the collection, correct both, and let the model learn.

import * as api from "./api.js";
import { h, note, percent, problem } from "./dom.js";
import { captionOf, medium } from "./media.js";

const MOST = 32; // files that are recognised together
const REVIEWED = 12;

export function render(view, _, { status }) {
  const cards = h("ol", { id: "predictions", class: "grid" });
  const outcome = h("div", { id: "learned", "aria-live": "polite" });
  const classes = new Set();
  const list = h("datalist", { id: "classes" });
  const known = (prediction) => {
    for (const name of Object.keys(prediction.probabilities)) classes.add(name);
    list.replaceChildren(...[...classes].sort().map((name) => h("option", { value: name })));
  };
  const files = h("input", { id: "drop", type: "file", multiple: true, class: "hidden", onchange: () => recognise(files.files) });
  const show = (element) => cards.append(element);

  async function recognise(chosen) {
    cards.replaceChildren();
    if (chosen.length > MOST) return show(problem(new Error(`At most ${MOST} files are recognised together; got ${chosen.length}.`)));
    for (const file of chosen) show(await fileCard(file, status, known));
    return files.value = "";
  }

  async function review(button) {
    cards.replaceChildren(note("Looking …"));
    button.disabled = true;
    try {
      const suspects = await suspicious(status.label);
      cards.replaceChildren(...suspects.map((one) => itemCard(one, status, known)));
      if (!suspects.length) show(note("The model takes nothing of these items."));
    } catch (error) {
      cards.replaceChildren(problem(error));
    }
    button.disabled = false;
  }

  async function learn(button) {
    outcome.replaceChildren(note("Learning …"));
    button.disabled = true;
    try {
      outcome.replaceChildren(...comparison(await api.learn()));
    } catch (error) {
      outcome.replaceChildren(problem(error));
    }
    button.disabled = false;
  }

  view.replaceChildren(
    h("section", { class: "ask" },
      h("p", {}, `The model predicts “${status.label}”. A correction is kept at once; learning trains the model again and keeps the old one if the new one is worse.`),
      h("div", { class: "bar" },
        h("button", { type: "button", id: "choose", class: "primary", onclick: () => files.click() }, "Choose files, or drop them here"), files,
        h("button", { type: "button", id: "review", onclick: (event) => review(event.target) }, "Review items"),
        status.learns && h("button", { type: "button", id: "learn", onclick: (event) => learn(event.target) }, "Learn from corrections"))),
    list, outcome, cards);
  view.ondragover = (event) => event.preventDefault();
  view.ondrop = (event) => { event.preventDefault(); recognise(event.dataTransfer.files); };
  view.onpaste = null;
}

// Items drawn at random; those first of which the model says something else than their label, the surest of them first.
async function suspicious(column) {
  const page = await api.items({ limit: 500 });
  const drawn = page.items.map((item) => [Math.random(), item]).sort(([a], [b]) => a - b).slice(0, 2 * REVIEWED).map(([, item]) => item);
  const settled = await Promise.allSettled(drawn.map(async (item) => ({ item, prediction: await api.predictItem(item.id) })));
  const rows = settled.filter((one) => one.status === "fulfilled").map((one) => one.value).filter(({ prediction }) => prediction.label !== null);
  const disagrees = ({ item, prediction }) => Boolean(item.metadata[column]) && item.metadata[column] !== prediction.label;
  return rows.sort((a, b) => disagrees(b) - disagrees(a) || b.prediction.probability - a.prediction.probability).slice(0, REVIEWED);
}

async function fileCard(file, status, known) {
  const kind = file.type.split("/")[0] || "image";
  const shown = medium({ modality: kind, url: kind === "text" ? null : URL.createObjectURL(file), text: file.name }, file.name);
  try {
    const prediction = await api.predict(file);
    known(prediction);
    return card(file.name, shown, prediction, null, status.teaches && ((label) => api.teach(file, label)));
  } catch (error) {
    return h("li", { class: "card" }, h("div", { class: "caption" }, file.name), problem(error));
  }
}

function itemCard({ item, prediction }, status, known) {
  known(prediction);
  const first = item.media.find((one) => one.modality !== "text") ?? item.media[0];
  return card(captionOf(item.id, item), medium(first, item.id), prediction, item.metadata[status.label],
    status.labels && ((label) => api.label({ item: item.id, label })));
}

function card(caption, shown, prediction, label, correct) {
  const best = Object.entries(prediction.probabilities).sort(([, a], [, b]) => b - a).slice(0, 3);
  return h("li", { class: "card" }, h("div", { class: "media" }, shown), h("div", { class: "caption" }, caption),
    h("p", { class: "prediction" }, h("b", {}, prediction.unknown ? `unknown, like ${prediction.label}` : prediction.label ?? "nothing usable"),
      prediction.probability === null ? "" : ` ${percent(prediction.probability)}`),
    label ? h("p", { class: "note" }, `labelled ${label}`) : null,
    Object.entries(prediction.columns).map(([name, value]) => h("p", {}, `${name}: ${JSON.stringify(value)}`)),
    best.length > 1 && h("ul", { class: "bars" }, best.map(([name, share]) => h("li", {}, `${name} `, h("meter", { value: share, max: 1 }), ` ${percent(share)}`))),
    correct && correction(correct));
}

function correction(correct) {
  const field = h("input", { name: "label", "aria-label": "The right label", placeholder: "the right label", maxLength: 1000, required: true });
  field.setAttribute("list", "classes");
  const form = h("form", { class: "bar", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await correct(field.value.trim());
      form.replaceChildren(note(`Kept: ${field.value.trim()}`));
    } catch (error) {
      form.append(problem(error));
    }
  } }, field, h("button", {}, "Correct"));
  return form;
}

function comparison(report) {
  return [
    h("h2", {}, report.switched ? "The new model replaces the old one" : "The old model stays"),
    h("p", {}, `${report.why}. ${report.corrections} corrected items, ${report.items} trained on, compared on ${report.compared}.`),
    h("ul", {}, report.columns.map((column) => h("li", {},
      `${column.column}: ${column.score} ${column.old.toFixed(3)} before, ${column.new.toFixed(3)} now (${column.interval[0].toFixed(3)} to ${column.interval[1].toFixed(3)})`))),
  ];
}

// Teach: recognise dropped files; correct the items that most likely are wrong, then the unsure ones; let the model learn.

import * as api from "./api.js";
import { button, counted, h, note, percent, problem, toast } from "./dom.js";
import { asHit } from "./results.js";
import { shown, thumbnail } from "./media.js";

const MOST = 32; // files that are recognised together
const LEARNS_AFTER = 12; // corrections
const KEYS = "123456789";
const KINDS = { suspect: "Probably labelled wrong", unsure: "The model is unsure", spread: "To be sure of the rest" };

let queue = null; // what is left to look at, and what was said
let chosen = null; // classes with keys

export function render(view, state, context) {
  const { status } = context;
  if (view.firstElementChild) return;
  const predictions = h("ol", { id: "predictions", class: "grid" });
  const learned = h("section", { id: "learned", "aria-live": "polite" });
  const desk = h("section", { id: "desk", "aria-label": "Items to look at" });
  const files = h("input", { id: "drop", type: "file", multiple: true, class: "hidden", tabIndex: -1, "aria-hidden": "true", onchange: () => recognise(files.files) });

  async function recognise(list) {
    predictions.replaceChildren();
    if (list.length > MOST) return predictions.append(h("li", {}, problem(new Error(`At most ${MOST} files are recognised together; these are ${list.length}.`))));
    for (const file of list) predictions.append(await fileCard(file, status));
    files.value = "";
    return null;
  }

  view.replaceChildren(
    h("section", {}, h("h2", {}, `Teach the model of “${status.label}”`),
      note("Items whose label and model disagree come first; the model judged each of them without having learned from it. What you say is kept at once.")),
    desk, learned,
    h("section", {}, h("h2", {}, "Recognise files"),
      h("div", { class: "row" }, button("Choose files, or drop them here", () => files.click(), { id: "choose" }), files), predictions));
  view.ondragover = (event) => event.preventDefault();
  view.ondrop = (event) => { event.preventDefault(); recognise(event.dataTransfer.files); };
  open(desk, learned, context);
}

async function open(desk, learned, context) {
  const { status } = context;
  if (!queue) {
    desk.replaceChildren(note("Looking for mistakes …"));
    try {
      const answer = await api.review(60);
      queue = { left: answer.items, said: [], waiting: answer.waiting };
      chosen = answer.classes.slice(0, KEYS.length);
    } catch (error) {
      desk.replaceChildren(problem(error));
      return;
    }
  }
  const next = () => turn(desk, learned, context);
  document.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, textarea, select, dialog")) return;
    const name = chosen[KEYS.indexOf(event.key)];
    if (KEYS.includes(event.key) && name) { event.preventDefault(); say(name, next, status); }
    else if (event.key === " " || event.key === "ArrowRight") { event.preventDefault(); skip(next); }
    else if (event.key === "u") { event.preventDefault(); undo(next, status); }
  };
  next();
}

async function say(name, next, status) {
  const one = queue.left[0];
  if (!one) return;
  queue.left.shift();
  queue.said.push({ one, name });
  next();
  try {
    await api.label([{ item: one.id, label: name, column: status.label }]);
  } catch (error) {
    toast(error);
    queue.left.unshift(queue.said.pop().one);
    next();
  }
}

function skip(next) {
  const one = queue.left.shift();
  if (one) queue.left.push(one);
  next();
}

// What was said last is said to be as before: the latest word of a person counts.
async function undo(next, status) {
  const last = queue.said.pop();
  if (!last) return;
  queue.left.unshift(last.one);
  next();
  try {
    await api.label([{ item: last.one.id, label: last.one.label ?? "unknown", column: status.label }]);
  } catch (error) {
    toast(error);
  }
}

async function turn(desk, learned, context) {
  const { status } = context;
  const next = () => turn(desk, learned, context);
  const one = queue.left[0];
  const count = queue.said.length + queue.waiting;
  const missing = LEARNS_AFTER - count;
  const foot = h("div", { class: "row" },
    button("Undo (U)", () => undo(next, status), { id: "undo", disabled: !queue.said.length }),
    one && button("Later (Space)", () => skip(next), { id: "later" }),
    h("span", { class: "note", role: "status", id: "until" }, missing > 0 ? `${missing} more until the next learning` : `${counted(count, "correction")} to learn from`),
    status.learns && button("Learn now", (event) => learn(event.target, learned, context), { id: "learn", class: missing > 0 ? "" : "primary", disabled: count === 0 }));
  if (!one) {
    desk.replaceChildren(note("Nothing is left to look at. Learn, or drop files below."), foot);
    return;
  }
  const item = await api.item(one.id).catch(() => null);
  if (queue.left[0] !== one) return;
  const field = h("input", { name: "label", required: true, maxLength: 1000, autocomplete: "off", placeholder: "another label", "aria-label": "Another label" });
  const form = h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); say(field.value.trim(), next, status); } }, field, h("button", {}, "Label"));
  desk.replaceChildren(h("div", { class: "desk" },
    h("figure", {}, item ? thumbnail(asHit(item), 420) : note("The item is gone."), h("figcaption", {}, item?.caption ?? one.id)),
    h("div", {},
      h("p", { class: `why ${one.kind}` }, h("b", {}, KINDS[one.kind])),
      h("p", {}, one.label === null ? "It has no label." : ["Labelled ", h("b", {}, shown(one.label)), "."],
        " The model says ", h("b", {}, shown(one.prediction)), one.probability === null ? "." : ` (${percent(one.probability)}).`),
      h("p", {}, "What is it?"),
      h("div", { class: "row answers" }, chosen.map((name, place) => button([h("kbd", {}, KEYS[place]), ` ${name}`], () => say(name, next, status), { data: { answer: name } }))),
      form, foot)));
  const following = queue.left[1];
  if (following) api.item(following.id).then((soon) => { if (soon.preview) new Image().src = `${soon.preview}&size=640`; }, () => {});
}

async function learn(control, learned, context) {
  learned.replaceChildren(note("Learning …"));
  control.disabled = true;
  try {
    learned.replaceChildren(...comparison(await api.learn()));
    queue = null;
    await context.refresh();
  } catch (error) {
    learned.replaceChildren(problem(error));
  }
  control.disabled = false;
}

function comparison(report) {
  return [
    h("h2", {}, report.switched ? "The new model replaces the old one" : "The old model stays"),
    h("p", {}, `${report.why}. ${counted(report.corrections, "corrected item")}, ${report.items} trained on, compared on ${report.compared}.`),
    h("ul", {}, report.columns.map((column) => h("li", {},
      `${column.column}: ${column.score} ${column.old.toFixed(3)} before, ${column.new.toFixed(3)} now (difference ${column.interval.map((value) => value.toFixed(3)).join(" to ")})`))),
  ];
}

async function fileCard(file, status) {
  const kind = file.type.split("/")[0];
  const picture = kind === "image" ? h("img", { src: URL.createObjectURL(file), alt: file.name }) : h("span", { class: "tile words" }, file.name);
  let said;
  try {
    said = await api.predict(file);
  } catch (error) {
    return h("li", { class: "card" }, h("span", { class: "media" }, picture), h("div", { class: "caption" }, file.name), problem(error));
  }
  const best = Object.entries(said.probabilities).sort(([, a], [, b]) => b - a).slice(0, 3);
  const field = h("input", { name: "label", required: true, maxLength: 1000, autocomplete: "off", placeholder: "the right label", "aria-label": `The right label of ${file.name}` });
  const form = status.teaches && h("form", { class: "row", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await api.teach(file, field.value.trim());
      form.replaceChildren(note(`Kept: ${field.value.trim()}`));
    } catch (error) {
      form.append(problem(error));
    }
  } }, field, h("button", {}, "Correct"));
  return h("li", { class: "card" }, h("span", { class: "media" }, picture), h("div", { class: "caption" }, file.name),
    h("p", { class: "prediction" }, h("b", {}, said.unknown ? `unknown, like ${said.label}` : said.label ?? "nothing usable"),
      said.probability === null ? "" : ` ${percent(said.probability)}`),
    Object.entries(said.columns).map(([name, value]) => h("p", {}, `${name}: ${JSON.stringify(value)}`)),
    best.length > 1 && h("ul", { class: "bars" }, best.map(([name, share]) => h("li", {}, `${name} `, h("meter", { value: share, max: 1, "aria-label": name }), ` ${percent(share)}`))),
    form);
}

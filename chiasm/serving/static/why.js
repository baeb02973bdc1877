// Reasons: what the model's answer to an item rests on, or what in its picture matched the words that found it; over the picture, and as
// numbers.

import * as api from "./api.js";
import { button, counted, h, note, percent, problem, select } from "./dom.js";
import { thumbnail } from "./media.js";
import { asHit, itemLink } from "./results.js";

const FINEST = 112; // pixels of the longer side of a heat map, which is blurred
const NAMED = 4; // strongest pieces, in a sentence
const METHODS = { exact: "exact", occlusion: "found by hiding one part after the other" };

// A section with a button for each kind of reason; the address keeps which is open.
export function reasons(item, state, { status, go, follow }, body) {
  const kinds = {
    answer: status.label && ["Why this answer", explainAnswer],
    words: state.text && item.media.some((one) => one.modality === "image" && one.url) && ["What matched the words", showMatch],
  };
  const said = h("div", { "aria-live": "polite" });
  const buttons = {};
  const open = async (kind) => {
    for (const [name, one] of Object.entries(buttons)) one.setAttribute("aria-pressed", String(name === kind));
    clear(body);
    said.replaceChildren(...(buttons[kind] ? [note("Looking for reasons …")] : []));
    if (!buttons[kind]) return;
    try {
      await kinds[kind][1](item, said, body, { state, status, go, follow, isOpen: () => said.isConnected && buttons[kind].getAttribute("aria-pressed") === "true" });
    } catch (error) {
      said.replaceChildren(problem(error));
    }
  };
  for (const [kind, [title]] of Object.entries(kinds).filter(([, offered]) => offered)) {
    buttons[kind] = button(title, () => {
      const next = buttons[kind].getAttribute("aria-pressed") === "true" ? "" : kind;
      go({ why: next }, { replace: true });
      open(next);
    }, { id: `why-${kind}` });
  }
  if (!Object.keys(buttons).length) return null;
  open(state.why);
  return h("section", {}, h("h3", {}, "Reasons"), h("div", { class: "row" }, Object.values(buttons)), said);
}

async function showMatch(item, said, body, { state, isOpen }) {
  const pictures = await api.match(item.id, state.text);
  if (!isOpen()) return;
  said.replaceChildren(
    ...pictures.map((one) => mediumSection({ ...one, modality: "image", method: "match", rest: null, change: null }, body, `cosine with “${state.text}” ${one.score.toFixed(2)}`)),
    note("How much of the cosine goes with each place when it is left out."));
}

async function explainAnswer(item, said, body, context) {
  const { status } = context;
  const { probabilities, columns } = await api.prediction(item.id);
  const answers = Object.fromEntries(Object.entries(columns).map(([name, value]) => [name, Object.keys(value.probabilities ?? {})]));
  if (!Object.keys(answers).length) answers[status.label] = Object.keys(probabilities);
  await explain(item, answers, { column: Object.keys(answers)[0], answer: "" }, said, body, context);
}

async function explain(item, answers, asked, said, body, context) {
  const again = (change) => explain(item, answers, { ...asked, ...change }, said, body, context).catch((error) => said.replaceChildren(problem(error)));
  const found = await api.explanation(item.id, asked);
  if (!context.isOpen()) return; // something else is shown by now
  const names = answers[asked.column];
  clear(body);
  const sections = found.media.map((medium) => mediumSection(medium, body, METHODS[medium.method]));
  said.replaceChildren(h("div", {},
    Object.keys(answers).length > 1 && select("explained-column", "Column", Object.keys(answers), asked.column, (event) => again({ column: event.target.value, answer: "" })),
    names.length > 1 && select("explained-answer", "Answer", names, found.answer, (event) => again({ answer: event.target.value })),
    h("p", {}, h("b", {}, found.answer), found.probability === null ? "" : ` ${percent(found.probability)}`),
    bars("What each part adds", [...Object.entries(found.modalities), ...(found.prior === null ? [] : [["to begin with", found.prior]])]),
    note(`In ${found.probability === null ? "units of the number" : "log-odds"}: ${signed(found.evidence)} in all.`),
    ...sections,
    examples(found.examples, context),
    believed(found),
    note("This says what the model looks at, not whether it is right.")));
}

// Items that the model has learned from, with what each adds: those for the answer, then those against it.
function examples(some, context) {
  return [["Learned from, and for it", 1], ["Learned from, and against it", -1]].map(([title, sign]) => {
    const own = some.filter(({ weight }) => weight * sign > 0);
    if (!own.length) return null;
    return h("section", {}, h("h4", {}, title), h("ul", { class: "strip" }, own.map((one) => {
      const link = itemLink(one.id, one.id, context, one.id);
      api.item(one.id).then((item) => link.replaceChildren(thumbnail(asHit(item), 110)), () => {}); // one that is gone keeps its name
      return h("li", {}, link, h("span", { class: "note" }, `${one.label} ${signed(one.weight)}`));
    })));
  });
}

// How far reasons can be believed, by kind, where that was measured.
function believed({ faithfulness, measured }) {
  const kinds = Object.entries(faithfulness);
  if (!kinds.length) return note("How far to believe it was not measured: chiasm explain MODEL --collection does, and keeps it for this page.");
  return h("section", {}, h("h4", {}, "How far to believe it"), kinds.map(([name, { deletion, deletion_error: error, items }]) => note(
    `${name}: hiding the strongest parts first lowers the answer by ${deletion.toFixed(3)} ± ${error.toFixed(3)} more than a random order${deletion > error ? "" : ", which is no more than chance, so its reasons are not shown"} (${counted(items, "item")}).`)),
  note(`Measured on ${measured}.`));
}

function mediumSection(medium, body, how) {
  const name = medium.number ? `${medium.modality} ${medium.number + 1}` : medium.modality;
  if (!medium.method) return note(`${name}: not explained, ${medium.note}.`);
  const parts = [h("h4", {}, name, h("span", { class: "note" }, ` ${how}`))];
  if (medium.modality === "image") {
    const picture = body.querySelector(`[data-picture="${medium.number}"]`);
    if (picture) {
      lay(picture, medium.reasons);
      const control = button("On the picture", () => {
        control.setAttribute("aria-pressed", String(picture.classList.toggle("explained")));
      }, { "aria-pressed": "true" });
      parts.push(h("div", { class: "row" }, control, h("span", { class: "note" }, h("span", { class: "speaks for" }, "for"), " ", h("span", { class: "speaks against" }, "against"))));
    }
  } else if (medium.modality === "text") {
    parts.push(marked(medium.text, medium.reasons));
  } else {
    parts.push(bars(`What each part of the ${medium.modality} adds`, medium.reasons.map((one) => [one.piece, one.weight])));
  }
  parts.push(note(inWords(medium)));
  return h("section", {}, parts);
}

// Lay what the places say over a picture: warm for the answer, cold against it.
function lay(picture, reasons) {
  const image = picture.querySelector("img");
  const canvas = h("canvas", { class: "heat", "aria-hidden": "true" });
  const most = Math.max(...reasons.map((one) => Math.abs(one.weight)), 1e-12);
  picture.append(canvas);
  picture.classList.add("explained");
  const draw = () => {
    const scale = FINEST / Math.max(image.naturalWidth, image.naturalHeight);
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight].map((side) => Math.max(1, Math.round(side * scale)));
    canvas.style.setProperty("max-width", image.style.maxWidth);
    const [left, , right] = reasons[0].box;
    canvas.style.setProperty("filter", `blur(${((right - left) * canvas.clientWidth) / 3}px)`);
    const style = getComputedStyle(picture);
    const pen = canvas.getContext("2d");
    for (const { box: [left, top, right, bottom], weight } of reasons) {
      pen.globalAlpha = Math.abs(weight) / most;
      pen.fillStyle = style.getPropertyValue(weight > 0 ? "--for" : "--against");
      pen.fillRect(left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height);
    }
  };
  if (image.complete && image.naturalWidth) draw();
  else image.addEventListener("load", draw, { once: true });
}

function clear(body) {
  for (const picture of body.querySelectorAll("[data-picture]")) {
    picture.classList.remove("explained");
    picture.querySelector("canvas")?.remove();
  }
}

// A text whose words are coloured by what they say; those against the answer are underlined, too.
function marked(text, reasons) {
  const most = Math.max(...reasons.map((one) => Math.abs(one.weight)), 1e-12);
  const letters = [...text]; // the server counts characters, not UTF-16 units
  const parts = [];
  let at = 0;
  for (const { start, end, weight } of reasons) {
    const mark = h("mark", { class: `speaks ${weight < 0 ? "against" : "for"}`, title: signed(weight) }, letters.slice(start, end).join(""));
    mark.style.setProperty("--share", `${(45 * Math.abs(weight)) / most}%`);
    parts.push(letters.slice(at, start).join(""), mark);
    at = end;
  }
  return h("blockquote", { tabIndex: 0 }, parts, letters.slice(at).join(""));
}

function bars(title, rows) {
  const most = Math.max(...rows.map(([, value]) => Math.abs(value)), 1e-12);
  return h("ul", { class: "shares", "aria-label": title }, rows.map(([name, value]) => {
    const bar = h("i", { class: `speaks ${value < 0 ? "against" : "for"}`, "aria-hidden": "true" });
    bar.style.setProperty("width", `${(100 * Math.abs(value)) / most}%`);
    return h("li", {}, h("span", {}, name), h("span", {}, bar), h("b", {}, signed(value)));
  }));
}

function inWords({ reasons, rest, change, modality }) {
  const sums = new Map();
  for (const { piece, weight } of reasons) sums.set(piece, (sums.get(piece) ?? 0) + weight);
  const order = [...sums].sort(([, a], [, b]) => b - a);
  const list = (some) => some.slice(0, NAMED).map(([piece, weight]) => `${piece} ${signed(weight)}`).join(", ");
  const [speakFor, against] = [order.filter(([, weight]) => weight >= 0.005), order.reverse().filter(([, weight]) => weight <= -0.005)];
  return [
    speakFor.length && `For: ${list(speakFor)}.`, against.length && `Against: ${list(against)}.`,
    !speakFor.length && !against.length && "No part of it makes a difference.",
    rest !== null && Math.abs(rest) >= 0.005 && `In no place: ${signed(rest)}.`,
    change && `Without ${modality === "image" ? counted(change.pieces.length, "place") : change.pieces.join(", ")} it would be ${change.answer}.`,
  ].filter(Boolean).join(" ");
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

// One item, large: its picture or player, its files, what is said in it and where, what is known of it, and its neighbours.

import * as api from "./api.js";
import { button, clock, h, note, number, problem, toast } from "./dom.js";
import { details, player, previewOf, shown, span, thumbnail, worth } from "./media.js";
import { likeOnly } from "./query.js";
import { asHit, itemLink } from "./results.js";
import { reasons } from "./why.js";

const NEIGHBOURS = 8;
let dialog = null;

export function closeItem() {
  dialog?.close();
}

// Show an item; `around` has the hits that the arrow keys go through.
export async function showItem(id, state, context) {
  const { go, around } = context;
  if (!dialog) {
    dialog = h("dialog", { id: "item", "aria-label": "Item", tabIndex: -1, autofocus: true });
    document.body.append(dialog);
    dialog.addEventListener("close", () => { if (dialog.dataset.id) { dialog.dataset.id = ""; dialog.replaceChildren(); dialog.leave(); } });
  }
  dialog.leave = () => go({ item: "", why: "" }, { replace: true });
  if (dialog.dataset.id === id) return;
  dialog.dataset.id = id;
  const place = around.hits.findIndex((hit) => hit.id === id);
  const step = (by) => {
    const next = around.hits[around.hits.findIndex((hit) => hit.id === id) + by];
    if (next) go({ item: next.id }, { replace: true });
    if (by > 0 && place + 3 > around.hits.length) around.more?.();
  };
  dialog.onkeydown = (event) => {
    if (event.target.closest("input, textarea, select, audio, video")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); step(by); }
  };
  const body = h("div", { class: "item-body" }, note("Loading …"));
  dialog.replaceChildren(h("div", { class: "item-bar" },
    button("Previous", () => step(-1), { icon: "left", id: "previous", disabled: place <= 0 }),
    button("Next", () => step(1), { icon: "right", id: "next", disabled: place < 0 }),
    h("span", { class: "note" }, place >= 0 ? `${number(place + 1)} of ${number(around.hits.length)}${around.done ? "" : "+"}` : ""),
    button("Close", closeItem, { icon: "close", class: "close" })), body);
  if (!dialog.open) dialog.showModal();
  dialog.focus(); // what had the focus is gone, and the arrow keys are the dialog's
  try {
    const [item, moments] = await Promise.all([api.item(id), api.moments(id)]);
    if (dialog.dataset.id !== id) return;
    const hit = around.hits[place] ?? asHit(item);
    body.replaceChildren(stage(item, hit), aside(item, hit, moments, state, context, body));
    neighbours(item, body, context);
  } catch (error) {
    body.replaceChildren(problem(error));
  }
}

function stage(item, hit) {
  const files = item.media.filter((one) => one.url || one.text);
  const order = ["video", "image", "audio", "text"];
  const main = [...files].sort((a, b) => order.indexOf(a.modality) - order.indexOf(b.modality) || a.number - b.number);
  const seen = main.filter((one) => one.modality !== "text" || !main.some((other) => other.modality !== "text"));
  return h("div", { class: "stage" }, seen.map((one) => shownFile(one, item, hit)));
}

function shownFile(file, item, hit) {
  const isHit = file.url && file.url === hit.url;
  if (file.modality === "image") {
    // A preview of the size of the screen; the file itself is a click away.
    const isFirst = item.preview?.startsWith(`${file.url}?`);
    const image = h("img", { alt: item.caption, src: isFirst ? previewOf(item.preview, 1200) : `${file.url}?size=1280` });
    image.addEventListener("error", () => { image.src = file.url; }, { once: true });
    image.addEventListener("load", () => image.style.setProperty("max-width", `min(100%, ${2 * image.naturalWidth}px)`));
    return h("div", { class: "picture", data: { picture: file.number } }, h("a", { href: file.url, target: "_blank", rel: "noopener", title: "Open the original" }, image));
  }
  if (file.modality === "text") return file.text ? h("blockquote", {}, file.text) : fetchedText(file.url);
  return player(file.modality, file.url, isHit ? hit.start : null, isHit ? hit.end : null);
}

function fetchedText(url) {
  const quote = h("blockquote", {}, "…");
  fetch(url).then(async (answer) => { quote.textContent = answer.ok ? (await answer.text()).slice(0, 20_000) : "The text cannot be read any more."; });
  return quote;
}

function aside(item, hit, moments, state, context, body) {
  const texts = item.media.filter((one) => one.modality === "text");
  const why = [worth(hit), hit.start !== null && hit.start !== undefined && `found at ${span(hit.modality, hit)}`,
    hit.score !== null && `by its ${hit.modality}, cosine ${hit.score.toFixed(2)}`].filter(Boolean);
  return h("div", { class: "facts" },
    h("h2", {}, item.caption),
    why.length > 0 && h("p", { class: "worth" }, h("b", {}, "Why: "), why.map((one, place) => [place ? " · " : "", one])),
    timeline(moments, hit, body),
    texts.some((one) => one.text && one.text !== item.caption) && h("section", {}, texts.map((one) => (one.text ? h("blockquote", {}, one.text) : null))),
    reasons(item, state, context, body),
    labelForm(item, context),
    h("h3", {}, "About"), h("p", { class: "id" }, item.id), details(item.metadata),
    h("h3", {}, "Files"), h("ul", { class: "files" }, item.media.map((one) => h("li", {},
      one.url ? h("a", { href: one.url, download: "" }, nameOf(one)) : `${nameOf(one)} (in the table)`))),
    h("div", { class: "row" }, button("More like this", () => { closeItem(); context.go(likeOnly(item.id)); }, { data: { act: "like" } })),
    h("section", { id: "neighbours" }));
}

const nameOf = (file) => (file.number ? `${file.modality} ${file.number + 1}` : file.modality);

// Moments in order on a line of time, and as a list of what is said in each; both jump there.
function timeline(moments, hit, body) {
  const spans = moments.filter((one) => one.modality !== "text" && one.start !== null);
  const whole = moments.filter((one) => one.start === null && one.text);
  const passages = moments.filter((one) => one.modality === "text");
  const found = new Set(hit.moments.map((one) => one.start));
  if (passages.length) {
    return h("details", { open: found.size > 0 }, h("summary", {}, `${passages.length} passages`), h("ol", { class: "transcript" }, passages.map((one) =>
      h("li", { class: found.has(one.start) ? "hit" : "" }, one.text ?? span("text", one)))));
  }
  if (!spans.length) return whole.length ? h("section", {}, h("h3", {}, "What is said"), whole.map((one) => h("blockquote", {}, one.text))) : null;
  const length = Math.max(...spans.map((one) => one.end));
  const jump = (start) => {
    const element = body.querySelector("audio, video");
    if (element) { element.currentTime = start; element.play().catch(() => {}); }
  };
  const marks = spans.map((one) => {
    const mark = button(`Jump to ${clock(one.start)}`, () => jump(one.start), { class: found.has(one.start) ? "mark hit" : "mark", title: one.text ?? "" });
    mark.setAttribute("aria-label", mark.textContent);
    mark.textContent = "";
    mark.style.setProperty("left", `${(100 * one.start) / length}%`);
    mark.style.setProperty("width", `${Math.max((100 * (one.end - one.start)) / length, 0.5)}%`);
    return mark;
  });
  const said = spans.filter((one) => one.text);
  return h("section", {}, h("h3", {}, said.length ? "What is said" : "Moments"), h("div", { class: "timeline" }, marks),
    h("ol", { class: "moments transcript" }, (said.length ? said : spans.filter((one) => found.has(one.start))).map((one) => h("li", { class: found.has(one.start) ? "hit" : "" },
      button(clock(one.start), () => jump(one.start), { class: "quiet" }), " ", one.text ?? span(one.modality, one)))));
}

function labelForm(item, { status }) {
  if (!status.labels || !status.columns.length) return null;
  const column = h("select", { "aria-label": "Column" }, status.columns.map((name) => h("option", { value: name, selected: name === status.label }, name)));
  const value = h("input", { name: "label", required: true, maxLength: 1000, placeholder: "the right label", "aria-label": "The right label", autocomplete: "off" });
  const form = h("form", { class: "row label-form", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await api.label([{ item: item.id, label: value.value.trim(), column: column.value }]);
      toast(`Kept: ${column.value} is “${value.value.trim()}” for the next learning.`);
      value.value = "";
    } catch (error) {
      toast(error);
    }
  } }, status.columns.length > 1 ? column : "", value, h("button", {}, "Label"));
  const now = () => shown(item.metadata[column.value]);
  const said = h("span", { class: "note" }, `now: ${now()}`);
  column.addEventListener("change", () => { said.textContent = `now: ${now()}`; });
  return h("section", {}, h("h3", {}, "Label ", said), form);
}

async function neighbours(item, body, context) {
  const section = body.querySelector("#neighbours");
  try {
    const { hits } = await api.search({ like: [item.id], k: NEIGHBOURS });
    if (!hits.length) return;
    section.replaceChildren(h("h3", {}, "Neighbours"), h("ul", { class: "strip" }, hits.map((hit) => h("li", {}, itemLink(hit.id, hit.caption, context, thumbnail(hit, 110))))));
  } catch {
    section.replaceChildren(); // an item without a vector has none
  }
}


// The grid: cards that come as one scrolls, chosen by clicks and keys, as large as a slider says.

import * as api from "./api.js";
import { button, h, note, number, problem, toast } from "./dom.js";
import { listen, span, thumbnail, worth } from "./media.js";
import { likeOnly } from "./query.js";
import { sourceOf } from "./results.js";
import { isQuery, write } from "./state.js";

const WIDTH = "chiasm-card"; // in the browser's storage: a matter of taste, and no part of what is shown
const WIDTHS = { least: 90, most: 420, usual: 190 };

export const cardWidth = () => Math.min(Math.max(Number(localStorage.getItem(WIDTH)) || WIDTHS.usual, WIDTHS.least), WIDTHS.most);

export function sizeSlider(results) {
  const apply = (width) => results().style.setProperty("--card", `${width}px`);
  return h("label", { class: "size" }, h("span", { class: "visually-hidden" }, "Size of pictures"),
    h("input", { type: "range", id: "size", min: WIDTHS.least, max: WIDTHS.most, step: 10, value: cardWidth(), oninput: (event) => {
      localStorage.setItem(WIDTH, event.target.value);
      apply(event.target.value);
    } }));
}

// Fill a section with the hits of a state. Returns what else needs them: the hits so far, and a way to get more.
export function grid(section, state, context) {
  const { chosen, selection, onPage } = context;
  const source = sourceOf(state, chosen);
  const list = h("ol", { class: "grid", "aria-label": "Items" });
  const notes = h("div", { class: "notes", "aria-live": "polite" });
  const end = h("div", { class: "more" });
  const shown = { hits: [], done: false, stop: () => { watch.disconnect(); source.stop(); } };
  let asking = null;

  async function ask() {
    try {
      const page = await source.next();
      shown.done = page.done;
      if (!shown.hits.length) notes.replaceChildren(...words(page, state));
      const width = cardWidth();
      list.append(...page.hits.map((hit, place) => card(hit, shown.hits.length + place, state, { ...context, width })));
      shown.hits.push(...page.hits);
      onPage(page, shown);
    } catch (error) {
      shown.done = true;
      if (error.name !== "AbortError") notes.replaceChildren(problem(error));
    }
    end.replaceChildren(shown.done ? "" : button("More", more));
    asking = null;
  }
  function more() {
    if (shown.done) return Promise.resolve();
    asking ??= ask();
    return asking;
  }
  shown.more = more;
  // A page is asked for well before its end comes into view, and then the next until the view is full.
  const watch = new IntersectionObserver(async (entries) => {
    while (entries.some((one) => one.isIntersecting) && !shown.done) {
      await more();
      if (end.getBoundingClientRect().top > window.innerHeight + 900) break;
    }
  }, { rootMargin: "900px" });
  list.style.setProperty("--card", `${cardWidth()}px`);
  section.replaceChildren(notes, list, end);
  watch.observe(end);
  selection.attach(list, shown);
  return shown;
}

function words(page, state) {
  const notes = (page.notes ?? []).map((text) => note(`${text[0].toUpperCase()}${text.slice(1)}.`));
  if (!page.hits.length && page.done) notes.push(note(isQuery(state) ? "Nothing found." : "There are no items here."));
  else if (page.found === false) notes.push(note("Probably nothing here fits. These come nearest."));
  return notes;
}

function card(hit, place, state, context) {
  const { go, follow, selection, width, status } = context;
  const href = write({ ...state, item: hit.id });
  const part = hit.start !== null && hit.start !== undefined;
  const where = part ? span(hit.modality, hit) : "";
  const score = worth(hit);
  const open = h("a", { class: "open", href, draggable: false, onclick: (event) => {
    if (selection.takesClick(event, hit.id, place)) return;
    follow(event, href);
  } }, h("span", { class: "media" }, thumbnail(hit, width)), h("span", { class: "caption" }, hit.caption));
  const box = h("input", { type: "checkbox", class: "pick", "aria-label": `Select ${hit.caption}`, checked: selection.has(hit.id),
    onclick: (event) => selection.toggle(hit.id, place, event.shiftKey) });
  const asked = isQuery(state);
  return h("li", { class: "card", data: { id: hit.id, place } }, box, open,
    part && hit.modality === "text" && hit.text && h("blockquote", {}, hit.text),
    (score || where) && h("p", { class: "worth" }, score, where && h("span", {}, where)),
    h("div", { class: "actions" },
      hit.modality === "audio" && hit.url && listen(hit),
      asked && status.rates && thumb(hit.id, "up", state, go),
      asked && status.rates && thumb(hit.id, "down", state, go),
      button("More like this", () => go(likeOnly(hit.id)), { icon: "like", data: { act: "like" } })));
}

function thumb(id, verdict, state, go) {
  const [name, other] = verdict === "up" ? ["liked", "disliked"] : ["disliked", "liked"];
  const pressed = state[name].includes(id);
  const press = () => {
    const rest = state[name].filter((one) => one !== id);
    if (!pressed) api.rate({ item: id, verdict, query: state.text || null }).catch(toast);
    go({ [name]: pressed ? rest : [...rest, id], [other]: state[other].filter((one) => one !== id) });
  };
  return button(verdict === "up" ? "This is right" : "This is wrong", press, { icon: verdict, data: { act: verdict }, "aria-pressed": String(pressed) });
}

// "of 1,234 items": how many there are where that is known, else how many are shown.
export function totalOf(page, shown) {
  if (page.total !== null && page.total !== undefined) return `${number(page.total)} ${page.total === 1 ? "item" : "items"}`;
  return shown.done ? `${number(shown.hits.length)} found` : "Best matches first";
}

// Search: the query bar, facets beside it, the grid, the map; each is made anew only when its part of the address changes.

import { addFiles } from "./adding.js";
import * as api from "./api.js";
import { button, h, problem, select, toast } from "./dom.js";
import { facets } from "./facets.js";
import { grid, sizeSlider, totalOf } from "./grid.js";
import { closeItem, showItem } from "./item.js";
import { mapPanel, within } from "./map.js";
import { queryBar, takeFiles } from "./query.js";
import { Selection } from "./selection.js";
import { conditions, isFiltered, isQuery } from "./state.js";

const selection = new Selection();
let parts = null; // of the view that is shown
let known = {}; // what each part was made from

export function forget() {
  known = {};
}

export function render(view, state, context) {
  if (!view.firstElementChild) {
    parts = skeleton(view);
    known = {};
  }
  const { go } = context;
  const asked = JSON.stringify([state.text, state.minus, state.like, state.liked, state.disliked, state.upload]);
  const narrowed = JSON.stringify([conditions(state), state.list]);
  const rest = JSON.stringify([state.modality, state.hybrid, state.sort, state.lasso]);
  update("query", asked, () => {
    const focus = document.activeElement?.id === "words";
    parts.query.replaceChildren(queryBar(state, context.status, go));
    if (focus) parts.query.querySelector("#words").focus();
  });
  takeFiles(view, state, go);
  update("facets", narrowed + state.modality + state.hybrid, () => {
    parts.asking?.abort();
    parts.asking = new AbortController();
    facets(parts.facets, state, context, parts.asking.signal);
  });
  parts.filters.classList.toggle("on", isFiltered(state));
  update("tools", narrowed + rest + asked + state.map, () => parts.tools.replaceChildren(...tools(state, context)));
  update("map", JSON.stringify([state.map, state.of, state.by, state.layout]), () => {
    parts.map.hidden = !state.map;
    view.classList.toggle("with-map", state.map);
    parts.points?.leave();
    parts.points = state.map ? mapPanel(parts.map, state, { ...context, onLasso: (lasso) => go({ lasso, item: "" }) }) : null;
    if (!state.map) parts.map.replaceChildren();
  });
  const make = update("results", asked + narrowed + rest, () => fill(state, context));
  if (!make) showPart(state, context);
}

// Make a part unless it was made from the same.
function update(name, key, make) {
  if (known[name] === key) return false;
  known[name] = key;
  make();
  return true;
}

function skeleton(view) {
  const made = {
    query: h("div", { class: "query" }), filters: h("details", { class: "filters" }, h("summary", {}, "Filters")),
    facets: h("aside", { id: "facets", "aria-label": "Filters" }), tools: h("div", { class: "tools" }),
    results: h("section", { id: "results", "aria-label": "Results" }), map: h("section", { id: "map", "aria-label": "Map", hidden: true }),
  };
  made.filters.append(made.facets);
  made.filters.open = window.matchMedia("(min-width: 60rem)").matches;
  view.replaceChildren(made.query, h("div", { class: "columns" }, made.filters, h("div", { class: "found" }, made.tools, made.results), made.map), selection.bar);
  return made;
}

// A button that adds files to the collection, and then shows the last of them.
function adder(go, refresh) {
  const input = h("input", { type: "file", id: "add-files", multiple: true, class: "hidden", tabIndex: -1, "aria-hidden": "true", onchange: async () => {
    const { added, total, last, problems } = await addFiles(input.files, { tell: (place, of) => toast(`Adding ${place + 1} of ${of} …`) });
    await refresh();
    toast(problems.length ? `${added} of ${total} added. ${problems[0].join(": ")}` : `${added} added.`);
    if (last) go({ item: last });
  } });
  return h("span", {}, button("Add files", () => input.click(), { id: "add" }), input);
}

function tools(state, { go, status, refresh }) {
  const orders = [["", isQuery(state) ? "best first" : "id"], ...(isQuery(state) ? [] : status.columns.flatMap((name) => [[name, `${name}, rising`], [`-${name}`, `${name}, falling`]]))];
  parts.total = h("p", { id: "total", role: "status" }, parts.total?.textContent ?? "");
  return [parts.total,
    state.lasso && h("span", { class: "chip" }, "within the lasso", button("Remove the lasso", () => go({ lasso: "" }), { icon: "close" })),
    state.list && h("span", { class: "chip" }, h("b", {}, "list "), state.list, button("Leave the list", () => go({ list: "" }), { icon: "close" })),
    h("span", { class: "spring" }),
    !isQuery(state) && select("sort", "Sort by", orders, state.sort, (event) => go({ sort: event.target.value, item: "" })),
    sizeSlider(() => parts.results.querySelector(".grid") ?? parts.results),
    status.edits && adder(go, refresh),
    button("Map", () => go({ map: !state.map, lasso: "" }), { id: "show-map", "aria-pressed": String(state.map) })].filter(Boolean);
}

async function fill(state, context) {
  parts.shown?.stop();
  const turn = (parts.turn = {});
  let chosen = null;
  try {
    chosen = await chosenIds(state);
  } catch (error) {
    parts.results.replaceChildren(problem(error));
    return;
  }
  if (parts.turn !== turn) return;
  const full = { ...context, state, chosen, selection, onPage: (page, shown) => {
    if (parts.turn !== turn) return;
    parts.total.textContent = totalOf(page, shown);
    parts.points?.light(isQuery(state) ? shown.hits.map((hit) => hit.id) : null);
    if (shown.hits.length === page.hits.length) showPart(state, context);
  } };
  selection.show(state, full);
  parts.shown = grid(parts.results, state, full);
}

// Of a lasso, and of a list that is searched in: the ids that hits have to be among.
async function chosenIds(state) {
  const sets = [];
  if (state.lasso) sets.push(await within(state));
  if (state.list && isQuery(state)) sets.push(new Set(await api.list(state.list)));
  return sets.length ? sets.reduce((all, one) => new Set([...all].filter((id) => one.has(id)))) : null;
}

function showPart(state, context) {
  selection.state = state;
  if (!state.item) closeItem();
  else showItem(state.item, state, { ...context, state, around: parts.shown ?? { hits: [], done: true } });
}


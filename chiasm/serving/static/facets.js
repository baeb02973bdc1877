// What there is, counted: modalities, values of columns, ranges of numbers and dates; each narrows down what is shown.

import * as api from "./api.js";
import { button, h, note, number, problem } from "./dom.js";
import { shown } from "./media.js";
import { UNFILTERED, conditions, filtered, isFiltered, ranged, toggled } from "./state.js";

const FEW = 6; // values of a column that are shown at first
const opened = new Set(); // columns of which all are shown

export async function facets(section, state, context, signal) {
  const { go, status } = context;
  section.setAttribute("aria-busy", "true");
  try {
    const within = state.list;
    const [all, lists, ...own] = await Promise.all([
      api.facets({ where: conditions(state), within }, { signal }), api.lists(),
      // A column that is filtered shows what else there is in it.
      ...filtered(state).map((column) => api.facets({ where: conditions(state, column), within, column }, { signal }))]);
    const instead = new Map(own.flatMap((answer) => answer.columns).map((facet) => [facet.name, facet]));
    const columns = all.columns.map((facet) => instead.get(facet.name) ?? facet);
    for (const facet of instead.values()) if (!columns.some((one) => one.name === facet.name)) columns.push(facet);
    const open = section.querySelector("details.sql")?.open ?? false;
    section.replaceChildren(
      h("div", { class: "row between" }, h("h2", {}, "Filters"),
        isFiltered(state) && button("Clear", () => go({ ...UNFILTERED, item: "" }), { id: "unfilter" })),
      modalities(all.modalities, state, go),
      listChooser(lists, state, context),
      ...columns.map((facet) => (facet.kind === "range" ? range(facet, state, go) : values(facet, state, context))),
      sql(state, status, go, open));
  } catch (error) {
    if (error.name !== "AbortError") section.prepend(problem(error));
  }
  section.removeAttribute("aria-busy");
}

function modalities(counts, state, go) {
  const names = Object.entries(counts);
  if (names.length < 2 && !state.has.length) return "";
  return h("div", { class: "row chooser", role: "group", "aria-label": "Items that have" }, names.map(([name, count]) => {
    const on = state.has.includes(name);
    return h("button", { type: "button", class: "pill", "aria-pressed": String(on), data: { has: name },
      onclick: () => go({ has: on ? state.has.filter((one) => one !== name) : [...state.has, name], item: "" }) }, `${name} `, h("small", {}, number(count)));
  }));
}

function listChooser(lists, state, { go, refresh }) {
  const names = Object.keys(lists);
  if (!names.length && !state.list) return "";
  return h("fieldset", { class: "facet" }, h("legend", {}, "Lists and tags"), h("ul", {}, names.map((name) =>
    row(name, lists[name], state.list === name, () => go({ list: state.list === name ? "" : name, item: "" })))),
  state.list && button("Delete this list", () => api.deleteList(state.list).then(() => { go({ list: "" }); refresh(); }), { class: "quiet", id: "delete-list" }));
}

const row = (name, count, on, onchange) => h("li", {}, h("label", {}, h("input", { type: "checkbox", checked: on, onchange }),
  h("span", { class: "value" }, name), h("small", {}, number(count))));

function values(facet, state, context) {
  const { go } = context;
  const kindOf = (value) => (typeof value === "string" ? "is" : "eq");
  const chosen = (kind) => state[kind][facet.name] ?? [];
  const of = (value) => (chosen(kindOf(value)).includes(String(value)));
  const rows = facet.values.map(({ value, count }) => [value, count]);
  const isOpen = opened.has(facet.name);
  const visible = rows.filter(([value], place) => isOpen || place < FEW || of(value));
  const rest = rows.length - visible.length;
  const list = visible.map(([value, count]) => row(shown(value), count, of(value), () => go({ ...toggled(state, kindOf(value), facet.name, String(value)), item: "" })));
  if (facet.missing) list.push(row("none", facet.missing, chosen("is").includes(""), () => go({ ...toggled(state, "is", facet.name, ""), item: "" })));
  return h("fieldset", { class: "facet", data: { column: facet.name } }, h("legend", {}, facet.name), h("ul", {}, list),
    rest > 0 && button(`${rest} more`, (event) => {
      opened.add(facet.name);
      const next = values(facet, state, context);
      event.target.closest("fieldset").replaceWith(next);
      next.querySelectorAll("input")[FEW]?.focus();
    }, { class: "quiet" }),
    isOpen && facet.more > 0 && note(`and ${number(facet.more)} rarer values; name one with a condition in SQL`));
}

function range(facet, state, go) {
  const isDate = typeof facet.low === "string";
  const most = Math.max(...facet.bins, 1);
  const bars = h("div", { class: "histogram", role: "img", "aria-label": `${facet.name} from ${shown(facet.low)} to ${shown(facet.high)}` }, facet.bins.map((count) => {
    const bar = h("i", {});
    bar.style.setProperty("height", `${Math.max((100 * count) / most, count ? 4 : 0)}%`);
    return bar;
  }));
  const field = (kind, placeholder, label) => h("input", { type: isDate ? "date" : "number", step: "any", value: (state[kind][facet.name] ?? "").slice(0, isDate ? 10 : 40),
    placeholder: shown(placeholder), "aria-label": `${facet.name} ${label}`, name: kind });
  const low = field("min", facet.low, "from"), high = field("max", facet.high, "to");
  const change = () => go({ ...ranged(state, facet.name, low.value, high.value), item: "" });
  low.addEventListener("change", change);
  high.addEventListener("change", change);
  return h("fieldset", { class: "facet", data: { column: facet.name } }, h("legend", {}, facet.name), bars, h("div", { class: "row range" }, low, h("span", {}, "to"), high));
}

function sql(state, status, go, open) {
  const where = h("input", { id: "where", value: state.where, maxLength: 2000, placeholder: `${status.columns[0] ?? "id"} = '…'`, "aria-label": "Condition in SQL" });
  const hybrid = h("input", { id: "hybrid", type: "checkbox", checked: state.hybrid, onchange: () => go({ hybrid: hybrid.checked }) });
  const kinds = [["", "any file"], ...Object.keys(status.embeddings).map((name) => [name, name])];
  return h("details", { class: "sql", open: open || Boolean(state.where || state.hybrid || state.modality) }, h("summary", {}, "More"),
    h("label", { class: "field" }, "Found by", h("select", { id: "modality", onchange: (event) => go({ modality: event.target.value }) },
      kinds.map(([key, name]) => h("option", { value: key, selected: key === state.modality }, name)))),
    h("label", { class: "check" }, hybrid, "Match the words themselves, too"),
    h("form", { class: "field", onsubmit: (event) => { event.preventDefault(); go({ where: where.value.trim(), item: "" }); } },
      h("span", {}, "Condition (SQL)"), h("div", { class: "row" }, where, h("button", {}, "Apply"))));
}

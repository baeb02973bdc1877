// The map: each item a point. Wheel and two fingers zoom, dragging pans, Shift or the lasso button chooses by a loop.

import * as api from "./api.js";
import { button, h, note, number, problem, select } from "./dom.js";
import { thumbnail } from "./media.js";
import { asHit } from "./results.js";
import { Plot } from "./plot.js";

// Told apart also by the colour-blind (after Okabe and Ito, 2008), in light and dark; the last is for the rest.
export const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a7300", "#56b4e9", "#7f3fbf", "#a8324a", "#6e6e6e"];
const REST = "#a3a9b3";
const drawn = new Map(); // answers by what was asked

function bytes(text) {
  const raw = atob(text);
  return Uint8Array.from(raw, (letter) => letter.charCodeAt(0));
}

const settings = (state, status) => ({
  modality: state.of || Object.keys(status.embeddings).sort((a, b) => status.embeddings[b] - status.embeddings[a])[0] || "image",
  column: state.by === "none" ? null : state.by || [status.label, "label", "category", "folder"].find((name) => status.columns.includes(name)) || null,
  layout: state.layout || "overview",
});

async function load(asked) {
  const key = JSON.stringify(asked);
  if (!drawn.has(key)) {
    drawn.set(key, api.map(asked).then((answer) => ({ ...answer, xy: new Uint16Array(bytes(answer.xy).buffer), groups: bytes(answer.groups) })));
    drawn.get(key).catch(() => drawn.delete(key));
  }
  return drawn.get(key);
}

// A lasso in the address: corners in thousandths of the map, x and y by turns.
const read = (lasso) => lasso.split("~").map((part) => (Number(part) / 1000) * 65535);
const write = (corners) => corners.map((value) => Math.round((value / 65535) * 1000)).join("~");

function inside(corners, x, y) {
  let odd = false;
  for (let i = 0, j = corners.length - 2; i < corners.length; j = i, i += 2) {
    const [ax, ay, bx, by] = [corners[i], corners[i + 1], corners[j], corners[j + 1]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}

// The ids of the items within the lasso of a state.
export async function within(state) {
  const { ids, xy } = await load(settings(state, await api.status()));
  const corners = read(state.lasso);
  return new Set(ids.filter((_, place) => inside(corners, xy[2 * place], xy[2 * place + 1])));
}

export function mapPanel(section, state, context) {
  const { status, go, onLasso } = context;
  const asked = settings(state, status);
  const figure = h("figure", {}, note("Drawing …"));
  section.replaceChildren(h("div", { class: "fields" },
    Object.keys(status.embeddings).length > 1 && select("of", "Map of", Object.keys(status.embeddings), asked.modality, (event) => go({ of: event.target.value, lasso: "" })),
    select("by", "Coloured by", [["none", "nothing"], ...status.columns.map((name) => [name, name])], asked.column ?? "none", (event) => go({ by: event.target.value })),
    select("layout", "Layout", [["overview", "overview"], ["neighbours", "neighbours together"]], asked.layout, (event) => go({ layout: event.target.value, lasso: "" }))), figure);
  const panel = { plot: null, hits: null, light(ids) { this.hits = ids; this.plot?.light(ids); }, leave() { this.plot?.leave(); } };
  load(asked).then((answer) => {
    if (!answer.ids.length) return figure.replaceChildren(note("There is nothing to draw: no item has an embedding of this kind."));
    panel.plot = draw(figure, answer, state, context, onLasso);
    return panel.plot.light(panel.hits);
  }).catch((error) => figure.replaceChildren(problem(error)));
  return panel;
}

function draw(figure, answer, state, { go }, onLasso) {
  const { ids, names, total } = answer;
  const canvas = h("canvas", { tabIndex: 0, role: "application",
    "aria-label": `Map of ${number(ids.length)} items. Arrow keys go from point to point, Enter shows the item, plus and minus zoom, Escape takes the lasso off.` });
  const about = h("div", { class: "hover", role: "status" });
  const colours = names.map((_, group) => (group === names.length - 1 ? REST : COLOURS[group]));
  let asking = 0;
  const plot = new Plot(canvas, answer, colours, {
    hover: (place) => {
      const turn = ++asking;
      if (place === null) return about.replaceChildren();
      const group = names[answer.groups[place]];
      about.replaceChildren(h("b", {}, ids[place].split("/").pop()), group ? ` ${group}` : "");
      return setTimeout(async () => { // an item that is only passed is not asked for
        if (turn !== asking) return;
        const item = await api.item(ids[place]).catch(() => null);
        if (item && turn === asking) about.replaceChildren(thumbnail(asHit(item), 120), h("span", {}, item.caption, group ? ` (${group})` : ""));
      }, 60);
    },
    open: (place) => go({ item: ids[place] }),
    lasso: (corners) => onLasso(corners ? write(corners) : ""),
  });
  if (state.lasso) plot.loop = read(state.lasso);
  const loop = button("Lasso", () => { plot.lassoes = !plot.lassoes; loop.setAttribute("aria-pressed", String(plot.lassoes)); }, { id: "lasso", "aria-pressed": "false" });
  const legend = names.length ? h("ul", { class: "legend" }, names.map((name, group) => {
    const count = answer.groups.reduce((sum, one) => sum + (one === group), 0);
    const dot = h("i", {});
    dot.style.setProperty("background", colours[group]);
    return count ? h("li", {}, dot, `${name} `, h("small", {}, number(count))) : null;
  })) : "";
  figure.replaceChildren(h("div", { class: "row" }, loop, button("Whole map", () => plot.home(), { id: "home" })), h("div", { class: "plot" }, canvas, about),
    h("figcaption", {}, legend, total > ids.length ? note(`${number(ids.length)} of ${number(total)} items, drawn at random`) : ""));
  plot.start();
  return plot;
}

// Map: embeddings in the plane on a canvas; wheel zooms, dragging pans, arrow keys walk from point to point.

import * as api from "./api.js";
import { h, note, problem, select } from "./dom.js";
import { showItem } from "./media.js";

// Told apart also by the colour-blind (after Okabe and Ito, 2008); the last is for the rest.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a7300", "#56b4e9", "#7f3fbf", "#a8324a", "#4d4d4d"];
const REST = "#a3a9b3";

export function render(view, params, { status, go }) {
  const kinds = Object.keys(status.embeddings);
  const columns = ["none", ...status.columns];
  const state = {
    modality: params.get("of") ?? kinds[0] ?? "image",
    column: params.get("by") ?? [status.label, "label", "folder"].find((name) => columns.includes(name)) ?? "none",
    layout: params.get("layout") ?? "overview",
  };
  const change = (values) => {
    const next = { ...state, ...values };
    go("map", new URLSearchParams({ of: next.modality, by: next.column, layout: next.layout }).toString());
  };
  const figure = h("figure", { id: "map", "aria-live": "polite" }, note("Drawing …"));
  view.ondragover = view.ondrop = view.onpaste = null;
  view.replaceChildren(h("form", { class: "fields" },
    select("of", "Embeddings of", kinds, state.modality, (event) => change({ modality: event.target.value })),
    select("by", "Coloured by", columns, state.column, (event) => change({ column: event.target.value })),
    select("layout", "Layout", ["overview", "neighbours"], state.layout, (event) => change({ layout: event.target.value }))), figure);
  api.map({ modality: state.modality, column: state.column === "none" ? null : state.column, layout: state.layout })
    .then((answer) => figure.replaceChildren(...drawing(answer, state)))
    .catch((error) => figure.replaceChildren(problem(error)));
}

// The most frequent values have colours of their own, the others share one; numbers are grouped by fifths.
export function groups(values) {
  const present = values.filter((value) => value !== null && value !== "");
  if (present.length && present.every((value) => typeof value === "number") && new Set(present).size > COLOURS.length) {
    const sorted = [...present].sort((a, b) => a - b);
    const edges = [0.2, 0.4, 0.6, 0.8].map((share) => sorted[Math.floor(share * sorted.length)]);
    const names = [`below ${edges[0]}`, ...edges.slice(1).map((edge, place) => `${edges[place]} to ${edge}`), `from ${edges[3]}`];
    return { names: [...names, "none"], of: values.map((value) => (typeof value === "number" ? edges.filter((edge) => value >= edge).length : 5)) };
  }
  const counts = new Map();
  for (const value of present) counts.set(String(value), (counts.get(String(value)) ?? 0) + 1);
  const frequent = [...counts].sort(([a, m], [b, n]) => n - m || a.localeCompare(b)).map(([name]) => name);
  const own = frequent.length <= COLOURS.length ? frequent : frequent.slice(0, COLOURS.length - 1);
  const place = new Map(own.map((name, number) => [name, number]));
  return { names: [...own, own.length < frequent.length ? "others" : "none"], of: values.map((value) => place.get(String(value)) ?? own.length) };
}

function drawing({ points, total }, state) {
  if (!points.length) return [note("There is nothing to draw: no item has an embedding of this kind.")];
  const { names, of } = groups(points.map((point) => point.value));
  const colour = (group) => (group === names.length - 1 ? REST : COLOURS[group]);
  const canvas = h("canvas", { tabIndex: 0, role: "application",
    "aria-label": `Map of ${points.length} items. Arrow keys go from point to point, Enter shows the item.` });
  const caption = h("p", { class: "note", role: "status" }, "Point at an item, or use the arrow keys.");
  const walk = points.map((_, number) => number).sort((a, b) => points[a].x - points[b].x);
  const camera = { zoom: 1, x: 0, y: 0 };
  let chosen = null;

  const place = (point) => {
    const size = Math.min(canvas.clientWidth, canvas.clientHeight) / 2 - 12;
    return [canvas.clientWidth / 2 + (point.x + camera.x) * size * camera.zoom, canvas.clientHeight / 2 - (point.y + camera.y) * size * camera.zoom];
  };
  const draw = () => {
    const scale = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const radius = points.length <= 400 ? 5 : points.length <= 2000 ? 3.5 : 2;
    points.forEach((point, number) => {
      const [x, y] = place(point);
      pen.beginPath();
      pen.arc(x, y, number === chosen ? radius + 3 : radius, 0, 2 * Math.PI);
      pen.fillStyle = colour(of[number]);
      pen.fill();
      if (number === chosen) pen.stroke();
    });
  };
  const choose = (number) => {
    chosen = number;
    const point = points[number];
    caption.textContent = point.caption + (point.value === null ? "" : ` (${point.value})`);
    draw();
  };
  const open = () => chosen !== null && api.item(points[chosen].id).then(showItem, (error) => { caption.textContent = error.message; });
  const nearest = (event) => {
    let [best, least] = [null, 14 ** 2];
    points.forEach((point, number) => {
      const [x, y] = place(point);
      const distance = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
      if (distance < least) [best, least] = [number, distance];
    });
    return best;
  };
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) {
      const size = (Math.min(canvas.clientWidth, canvas.clientHeight) / 2 - 12) * camera.zoom;
      camera.x += event.movementX / size;
      camera.y -= event.movementY / size;
      draw();
    } else {
      const number = nearest(event);
      if (number !== null && number !== chosen) choose(number);
    }
  });
  canvas.addEventListener("click", (event) => { const number = nearest(event); if (number !== null) { choose(number); open(); } });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    camera.zoom = Math.min(Math.max(camera.zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2), 0.5), 200);
    draw();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      choose(walk[(walk.indexOf(chosen) + step + walk.length) % walk.length]);
    } else if (event.key === "Enter") open();
  });
  new ResizeObserver(draw).observe(canvas);
  const counts = names.map((_, group) => of.filter((one) => one === group).length);
  const legend = state.column === "none" ? "" : h("ul", { class: "legend" }, names.map((name, group) => {
    const dot = h("i", {});
    dot.style.background = colour(group);
    return counts[group] ? h("li", {}, dot, ` ${name} `, h("small", {}, counts[group])) : null;
  }));
  const less = total > points.length ? h("p", { class: "note" }, `${points.length} of ${total} items, drawn at random`) : "";
  return [canvas, caption, h("figcaption", {}, legend, less)];
}

// Start the page, and show the view that the address names.

import * as api from "./api.js";
import { renderHealth, renderReport } from "./about.js";
import { h, problem, select } from "./dom.js";
import * as manage from "./manage.js";
import * as search from "./search.js";
import { base, read, write } from "./state.js";
import * as teach from "./teach.js";

const VIEWS = {
  search: ["Search", search.render],
  teach: ["Teach", teach.render],
  report: ["Report", renderReport],
  health: ["Health", renderHealth],
  manage: ["Manage", manage.render],
};
const view = document.getElementById("view");
const tabs = document.getElementById("tabs");
let status = null; // of the collection; null as long as there is none
let shelf = null; // the collections of the server
let shown = "";

// Go to a state; one that only replaces what a slider or a text field says leaves no step for Back.
function go(values, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", write({ ...read(), ...values }));
  render();
}

function render() {
  const state = read();
  const offered = offers();
  if (!offered.includes(state.view)) state.view = offered[0];
  tabs.replaceChildren(...offered.map((key) => {
    const [title] = VIEWS[key];
    const href = write({ ...read(""), view: key });
    return h("a", { href, "aria-current": key === state.view && "page", onclick: (event) => follow(event, href) }, title);
  }));
  if (state.view !== shown) {
    view.replaceChildren();
    view.className = state.view;
    view.ondragover = view.ondrop = document.onpaste = document.onkeydown = null;
    shown = state.view;
  }
  VIEWS[state.view][1](view, state, context());
}

const context = () => ({ status, shelf, go, follow, refresh, now: context });

function offers() {
  if (!status) return ["manage"];
  return Object.keys(VIEWS).filter((key) => (key !== "teach" || status.label) && (key !== "manage" || status.edits || shelf.collections.length > 1));
}

// Follow a link within the page, unless it is to open elsewhere.
function follow(event, href) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  history.pushState(null, "", href);
  render();
}

// Ask again what is served, after something has changed.
async function refresh() {
  status = await api.status();
  search.forget();
  render();
}

async function start() {
  const several = api.collections(); // at the same time
  try {
    status = await api.status();
    shelf = await several;
  } catch (error) {
    shelf = await several.catch(() => null);
    if (!shelf || shelf.collections.length || !shelf.makes) {
      view.replaceChildren(problem(error));
      return;
    }
  }
  if (status) {
    document.title = `${status.name} · chiasm`;
    shelf.current = shelf.collections.find((one) => decodeURIComponent(one.address) === decodeURIComponent(base)) ?? shelf.collections[0];
    document.getElementById("name").replaceChildren(shelf.collections.length > 1 ? switcher() : status.name);
  }
  window.addEventListener("popstate", render);
  document.querySelector(".brand").addEventListener("click", (event) => follow(event, `${base}/`));
  render();
}

// Choose another of the collections; each has an address of its own.
function switcher() {
  const entries = shelf.collections.map((one) => [`${one.address}/`, one.name]);
  return select("collection", "Collection", entries, `${shelf.current.address}/`, (event) => { location.href = event.target.value; });
}

start();

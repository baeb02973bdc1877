// Start the page, and show the view that the address names.

import * as api from "./api.js";
import { renderHealth, renderReport } from "./about.js";
import { h, problem } from "./dom.js";
import * as search from "./search.js";
import { read, write } from "./state.js";
import * as teach from "./teach.js";

const VIEWS = {
  search: ["Search", search.render],
  teach: ["Teach", teach.render],
  report: ["Report", renderReport],
  health: ["Health", renderHealth],
};
const view = document.getElementById("view");
const tabs = document.getElementById("tabs");
let status = null;
let shown = "";

// Go to a state; one that only replaces what a slider or a text field says leaves no step for Back.
function go(values, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", write({ ...read(), ...values }));
  render();
}

function render() {
  const state = read();
  if (state.view === "teach" && !status.label) state.view = "search";
  tabs.replaceChildren(...Object.entries(VIEWS).filter(([key]) => key !== "teach" || status.label).map(([key, [title]]) => {
    const href = write({ ...read(""), view: key });
    return h("a", { href, "aria-current": key === state.view && "page", onclick: (event) => follow(event, href) }, title);
  }));
  if (state.view !== shown) {
    view.replaceChildren();
    view.className = state.view;
    view.ondragover = view.ondrop = document.onpaste = document.onkeydown = null;
    shown = state.view;
  }
  VIEWS[state.view][1](view, state, { status, go, follow, refresh });
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
  try {
    status = await api.status();
  } catch (error) {
    view.replaceChildren(problem(error));
    return;
  }
  document.title = `${status.name} · chiasm`;
  document.getElementById("name").textContent = status.name;
  window.addEventListener("popstate", render);
  document.querySelector(".brand").addEventListener("click", (event) => follow(event, "/"));
  render();
}

start();

// The URL is the state: ?view=NAME&... ; Back and a copied link work. Each view renders itself from it.

import * as api from "./api.js";
import { renderReport, renderStatus } from "./about.js";
import * as classify from "./classify.js";
import { h, problem } from "./dom.js";
import * as map from "./map.js";
import * as search from "./search.js";

const VIEWS = {
  search: ["Search", search.render],
  classify: ["Classify", classify.render],
  map: ["Map", map.render],
  report: ["Report", renderReport],
  status: ["Status", renderStatus],
};
const view = document.getElementById("view");
const tabs = document.getElementById("tabs");
let status = null;

function go(name, query = "") {
  history.pushState(null, "", `/?view=${name}${query ? `&${query}` : ""}`);
  render();
}

function render() {
  const params = new URLSearchParams(location.search);
  const chosen = params.get("view");
  const name = chosen in VIEWS && (chosen !== "classify" || status.label) ? chosen : "search";
  document.getElementById("toast").textContent = "";
  tabs.replaceChildren(...Object.entries(VIEWS).filter(([key]) => key !== "classify" || status.label).map(([key, [title]]) =>
    h("a", { href: `/?view=${key}`, "aria-current": key === name && "page", onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      go(key);
    } }, title)));
  VIEWS[name][1](view, params, { status, go });
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
  render();
}

start();

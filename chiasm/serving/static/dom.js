// Build elements without HTML strings: whatever comes from a file, a table or a person stays text.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name in element && name !== "list" && name !== "form") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function icon(path) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", "0 0 16 16");
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", path);
  drawing.append(line);
  return drawing;
}

export const problem = (error) => h("p", { class: "problem", role: "alert" }, error.message ?? String(error));
export const note = (text) => h("p", { class: "note", role: "status" }, text);

export function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

// A probability is never rounded to certainty.
export function percent(share) {
  if (share < 0.0001) return "< 0.01 %";
  if (share < 0.01) return `${(100 * share).toPrecision(2)} %`;
  return share > 0.99 ? "> 99 %" : `${Math.round(100 * share)} %`;
}

export function table(head, rows) {
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))));
}

export function select(id, label, options, value, onchange) {
  return h("label", { class: "field" }, label,
    h("select", { id, onchange }, options.map((name) => h("option", { value: name, selected: name === value }, name))));
}

// Say something that concerns no part of the view in particular.
export function toast(error) {
  document.getElementById("toast").textContent = error.message ?? String(error);
}

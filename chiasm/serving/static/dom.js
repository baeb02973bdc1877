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

const PATHS = { // of 16 x 16
  up: "M5 7.2 8.2 1.5c.9 0 1.6.7 1.6 1.6L9.4 6h3.9c.8 0 1.4.8 1.2 1.6l-1.3 5.2c-.1.5-.6.9-1.2.9H5zM1.5 7h2v6.7h-2z",
  down: "M11 8.8 7.8 14.5c-.9 0-1.6-.7-1.6-1.6L6.6 10H2.7c-.8 0-1.4-.8-1.2-1.6l1.3-5.2c.1-.5.6-.9 1.2-.9h7zM14.5 9h-2V2.3h2z",
  like: "M2 2h5v5H2zM9 2h5v5H9zM2 9h5v5H2zM11 9h1v2h2v1h-2v2h-1v-2H9v-1h2z",
  search: "M7 1a6 6 0 1 1-3.7 10.7A6 6 0 0 1 7 1zm0 2a4 4 0 1 0 0 8 4 4 0 0 0 0-8zm4.6 7.2 3.7 3.7-1.4 1.4-3.7-3.7z",
  picture: "M1 2h14v12H1zm2 2v6.6l3-3 2.5 2.5L11 8l2 2V4zm2 1h2v2H5z",
  camera: "M5 3l1-1.5h4L11 3h4v11H1V3zm3 2.5a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
  sound: "M8 1a2.2 2.2 0 0 1 2.2 2.2v4.6a2.2 2.2 0 0 1-4.4 0V3.2A2.2 2.2 0 0 1 8 1zM3.5 7H5a3 3 0 0 0 6 0h1.500a4.500 4.500 0 0 1-3.700 4.400V13.500H11V15H5v-1.500h2.200v-2.100A4.500 4.500 0 0 1 3.500 7z",
  play: "M4 2l9 6-9 6z",
  pause: "M3.500 2h3v12h-3zM9.500 2h3v12h-3z",
  filter: "M1 2h14l-5.500 6.500V14l-3-1.500v-4z",
  map: "M1 3l4.500-1.500 5 1.500L15 1.500V13l-4.500 1.500-5-1.500L1 14.500zm5 .4v8.200l4 1.200V4.600z",
  close: "M3.300 2 8 6.700 12.700 2 14 3.300 9.300 8l4.700 4.700-1.300 1.300L8 9.300 3.300 14 2 12.700 6.700 8 2 3.300z",
  left: "M10.500 2 12 3.500 7.500 8l4.500 4.500L10.500 14l-6-6z",
  right: "M5.500 2 4 3.500 8.500 8 4 12.500 5.500 14l6-6z",
};

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", "0 0 16 16");
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", PATHS[name]);
  line.setAttribute("fill-rule", "evenodd");
  drawing.append(line);
  return drawing;
}

// A button; one that shows only an icon is named by its label.
export function button(label, onclick, { icon: name = null, ...props } = {}) {
  return h("button", { type: "button", onclick, ...(name ? { "aria-label": label, title: label } : {}), ...props }, name ? icon(name) : label);
}

export const problem = (error) => h("p", { class: "problem", role: "alert" }, error.message ?? String(error));
export const note = (text) => h("p", { class: "note" }, text);
export const number = (value) => value.toLocaleString("en");
export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

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
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" }, h("table", {},
    head.length > 0 && h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, place) => (place || head.length ? h("td", {}, cell) : h("th", { scope: "row" }, cell))))))));
}

export function select(id, label, options, value, onchange) {
  return h("label", { class: "field" }, label, h("select", { id, onchange },
    options.map((one) => (Array.isArray(one) ? one : [one, one])).map(([key, name]) => h("option", { value: key, selected: key === value }, name))));
}

// Say something that concerns no part of the view in particular.
let hide = 0;
export function toast(words) {
  const element = document.getElementById("toast");
  element.textContent = words.message ?? String(words);
  clearTimeout(hide);
  hide = setTimeout(() => { element.textContent = ""; }, 6000);
}

// Ask in a dialog of its own; the answer is the value of a field, true, or null.
export function askFor(title, { text = "", field = null, options = [], action = "OK", danger = false } = {}) {
  return new Promise((done) => {
    const input = field && h("input", { name: "answer", required: true, maxLength: 200, "aria-label": field, placeholder: field, autocomplete: "off" });
    const known = h("datalist", { id: "answers" }, options.map((value) => h("option", { value })));
    input?.setAttribute("list", "answers");
    const dialog = h("dialog", { class: "ask-for", "aria-label": title },
      h("form", { method: "dialog", onsubmit: () => { dialog.returnValue = "yes"; } }, h("h2", {}, title), text && h("p", {}, text), input, known,
        h("div", { class: "row end" }, button("Cancel", () => dialog.close("")), h("button", { class: danger ? "danger" : "primary" }, action))));
    dialog.addEventListener("close", () => {
      done(dialog.returnValue === "yes" ? (input ? input.value.trim() : true) : null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

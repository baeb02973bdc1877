// Search: the URL holds words, items and filters, so that Back and a copied link work; files stay in this window.

import * as api from "./api.js";
import { h, icon, note, percent, problem, select, toast } from "./dom.js";
import { captionOf, details, medium, moments, showItem, span } from "./media.js";

const PAGE = 24;
const MODALITIES = ["image", "text", "audio", "video"];
const LISTS = ["like", "liked", "disliked"];
const THUMBS = { // paths of 16 x 16
  up: "M5 7.2 8.2 1.5c.9 0 1.6.7 1.6 1.6L9.4 6h3.9c.8 0 1.4.8 1.2 1.6l-1.3 5.2c-.1.5-.6.9-1.2.9H5zM1.5 7h2v6.7h-2z",
  down: "M11 8.8 7.8 14.5c-.9 0-1.6-.7-1.6-1.6L6.6 10H2.7c-.8 0-1.4-.8-1.2-1.6l1.3-5.2c.1-.5.6-.9 1.2-.9h7zM14.5 9h-2V2.3h2z",
};
const attached = new Map(); // files by the name that stands in the URL
let latest = 0; // only the newest answer is shown

export function read(params) {
  const state = { files: params.getAll("file").filter((name) => attached.has(name)), page: Number(params.get("page")) || 0 };
  for (const name of ["text", "minus", "modality", "where"]) state[name] = params.get(name) ?? "";
  for (const name of LISTS) state[name] = params.getAll(name);
  state.hybrid = params.has("hybrid");
  return state;
}

function write(state) {
  const params = new URLSearchParams();
  for (const name of ["text", "minus", "modality", "where"]) if (state[name]) params.set(name, state[name]);
  for (const name of LISTS) for (const id of state[name]) params.append(name, id);
  for (const name of state.files) params.append("file", name);
  if (state.hybrid) params.set("hybrid", "1");
  if (state.page) params.set("page", state.page);
  return params.toString();
}

const kindOf = (file) => MODALITIES.find((name) => file.type.startsWith(`${name}/`)) ?? "image";
const isQuery = (state) => state.text || state.files.length || state.like.length;

export function render(view, params, { status, go }) {
  const state = read(params);
  const change = (values) => go("search", write({ ...state, page: 0, liked: [], disliked: [], ...values }));
  const results = h("section", { id: "results", "aria-live": "polite" });
  const attach = (files) => {
    for (const file of files) attached.set(file.name, file);
    change({ files: [...new Set([...state.files, ...[...files].map((file) => file.name)])] });
  };
  view.replaceChildren(form(state, status, change, attach), chips(state, change), results);
  view.ondragover = (event) => event.preventDefault();
  view.ondrop = (event) => { event.preventDefault(); attach(event.dataTransfer.files); };
  view.onpaste = (event) => event.clipboardData.files.length && attach(event.clipboardData.files);
  show(results, state, status, { go, change });
}

function form(state, status, change, attach) {
  const text = h("input", {
    id: "words", type: "search", value: state.text, maxLength: 10000, autocomplete: "off", enterKeyHint: "search",
    placeholder: "Search with words", "aria-label": "Search with words", disabled: !status.modalities.includes("text"),
  });
  const minus = h("input", { id: "minus", value: state.minus, maxLength: 10000, placeholder: "words" });
  const where = h("input", { id: "where", value: state.where, maxLength: 2000, placeholder: `${status.columns[0] ?? "id"} = '…'` });
  const hybrid = h("input", { id: "hybrid", type: "checkbox", checked: state.hybrid });
  const files = h("input", { id: "file", type: "file", multiple: true, class: "hidden", onchange: () => attach(files.files) });
  const submit = (event) => {
    event?.preventDefault();
    change({ text: text.value.trim(), minus: minus.value.trim(), where: where.value.trim(), hybrid: hybrid.checked });
  };
  hybrid.addEventListener("change", submit);
  const kinds = ["any", ...MODALITIES.filter((name) => status.modalities.includes(name))];
  return h("form", { class: "ask", role: "search", onsubmit: submit },
    h("div", { class: "bar" }, text,
      h("button", { type: "button", id: "attach", title: "Search with a file", onclick: () => files.click() }, "File"), files,
      status.modalities.includes("audio") && recorder(attach),
      h("button", { id: "go", class: "primary" }, "Search")),
    h("details", { open: Boolean(state.minus || state.where || state.hybrid || state.modality) },
      h("summary", {}, "Filters"),
      h("div", { class: "fields" },
        h("label", { class: "field" }, "But not", minus),
        select("modality", "Find by", kinds, state.modality || "any",
          (event) => change({ modality: event.target.value === "any" ? "" : event.target.value })),
        h("label", { class: "field" }, "Where (SQL)", where),
        h("label", { class: "check" }, hybrid, "Match the words themselves, too"))));
}

function recorder(attach) {
  const button = h("button", { type: "button", id: "record", title: "Search with a sound from the microphone" }, "Record");
  let running = null;
  button.addEventListener("click", async () => {
    if (running) return running.stop();
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      button.after(problem(new Error("The microphone cannot be used.")));
      return;
    }
    const parts = [];
    running = new MediaRecorder(stream);
    running.ondataavailable = (event) => parts.push(event.data);
    running.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      running = null;
      attach([new File(parts, `recording ${new Date().toLocaleTimeString()}.webm`, { type: "audio/webm" })]);
    };
    running.start();
    button.textContent = "Stop";
  });
  return button;
}

function chips(state, change) {
  const chip = (words, values) => h("li", {}, words,
    h("button", { type: "button", "aria-label": `Remove ${words}`, onclick: () => change(values) }, "×"));
  const all = [
    ...state.files.map((name) => chip(name, { files: state.files.filter((other) => other !== name) })),
    ...state.like.map((id) => chip(`like ${id}`, { like: state.like.filter((other) => other !== id) })),
    state.minus && chip(`not ${state.minus}`, { minus: "" }),
  ].filter(Boolean);
  return all.length ? h("ul", { class: "chips", "aria-label": "Parts of the query" }, all) : "";
}

async function show(results, state, status, actions) {
  const turn = ++latest;
  results.replaceChildren(note("Searching …"));
  try {
    const page = isQuery(state) ? await hits(state) : await browse(state);
    const known = new Map(await Promise.all(page.hits.map(async (hit) => [hit.id, hit.item ?? await api.item(hit.id)])));
    if (turn !== latest) return;
    results.replaceChildren(...page.notes, grid(page.hits, known, state, status, actions), pager(page, state, actions));
  } catch (error) {
    if (turn === latest) results.replaceChildren(problem(error));
  }
}

async function hits(state) {
  const { files, page, ...fields } = state;
  const answer = await api.search({ ...fields, k: PAGE + 1, offset: page * PAGE },
    files.map((name) => ({ modality: kindOf(attached.get(name)), file: attached.get(name) })));
  const notes = answer.notes.map((words) => note(`${words[0].toUpperCase()}${words.slice(1)}.`));
  if (!answer.hits.length) notes.push(note("Nothing found."));
  else if (answer.found === false) {
    notes.push(note(`Probably nothing here fits: none of these is ${percent(answer.threshold)} probable, as what fits usually is.`));
  }
  return { hits: answer.hits.slice(0, PAGE), more: answer.hits.length > PAGE, notes };
}

// Items in the order of their ids; the API lists onwards from a cursor, so pages are walked to.
async function browse(state) {
  if (state.minus) throw new Error("Say what to look for, too: only what is not wanted was given.");
  let answer = { next: null };
  for (let page = 0; page <= state.page; page += 1) {
    answer = await api.items({ limit: PAGE, after: answer.next, where: state.where });
    if (answer.next === null) break;
  }
  const hits = answer.items.map((item) => {
    const first = item.media.find((one) => one.modality !== "text") ?? item.media[0] ?? { modality: "text", text: null, url: null };
    return { ...first, id: item.id, item, metadata: item.metadata, moments: [], start: null, end: null, probability: null, score: null };
  });
  return { hits, more: answer.next !== null, notes: hits.length ? [] : [note("There are no items here.")] };
}

function grid(hits, known, state, status, actions) {
  return h("ol", { class: "grid" }, hits.map((hit) => card(hit, known.get(hit.id), state, status, actions)));
}

function worth(hit) {
  if (hit.probability !== null) return `${percent(hit.probability)} probable`;
  return hit.score === null ? "" : `score ${hit.score.toFixed(2)}`;
}

function card(hit, item, state, status, { go, change }) {
  const caption = captionOf(hit.id, item);
  // A text that was found stands for its item, which is recognised sooner by its picture.
  const picture = hit.modality === "text" ? item.media.find((one) => one.modality === "image") : null;
  const where = hit.start === null ? "" : span(hit.modality, hit);
  const element = h("li", { class: "card", data: { id: hit.id } },
    h("div", { class: "media" }, medium(picture ?? hit, caption)),
    h("button", { type: "button", class: "caption", onclick: () => showItem(item) }, caption),
    h("p", { class: "worth" }, [worth(hit), where].filter(Boolean).join(" · ")),
    where && hit.text && (picture || hit.modality !== "text") ? h("p", { class: "words" }, hit.text) : null,
    moments(hit, () => element),
    h("div", { class: "actions" },
      isQuery(state) && thumb(hit.id, "up", state, go),
      isQuery(state) && thumb(hit.id, "down", state, go),
      h("button", { type: "button", data: { act: "like" }, onclick: () => change({ text: "", minus: "", files: [], like: [hit.id] }) },
        "More like this")),
    details(hit.metadata) && h("details", {}, h("summary", {}, "Details"), details(hit.metadata)));
  return element;
}

function thumb(id, verdict, state, go) {
  const [name, other] = verdict === "up" ? ["liked", "disliked"] : ["disliked", "liked"];
  const pressed = state[name].includes(id);
  const press = () => {
    const rest = state[name].filter((one) => one !== id);
    if (!pressed) api.rate({ item: id, verdict, query: state.text || null }).catch(toast);
    go("search", write({ ...state, page: 0, [name]: pressed ? rest : [...rest, id], [other]: state[other].filter((one) => one !== id) }));
  };
  return h("button", { type: "button", data: { act: verdict }, "aria-pressed": String(pressed), onclick: press,
    "aria-label": verdict === "up" ? "This is right" : "This is wrong" }, icon(THUMBS[verdict]));
}

function pager({ more }, state, { go }) {
  const turn = (step) => go("search", write({ ...state, page: state.page + step }));
  const rated = [...state.liked, ...state.disliked];
  return h("nav", { class: "pager", "aria-label": "Pages" },
    rated.length ? h("button", { type: "button", id: "unrate", onclick: () => go("search", write({ ...state, liked: [], disliked: [] })) },
      `Take back ${rated.length} ratings`) : "",
    state.page > 0 ? h("button", { type: "button", onclick: () => turn(-1) }, "Previous") : "",
    more ? h("button", { type: "button", onclick: () => turn(1) }, "Next") : "");
}

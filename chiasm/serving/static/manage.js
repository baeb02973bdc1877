// Manage: make collections, add files, have the collection learn, choose a model. What takes long runs beside the server.

import { addFiles } from "./adding.js";
import * as api from "./api.js";
import { button, counted, h, note, number, problem, select, table, toast } from "./dom.js";

const OFTEN = 700; // milliseconds between looks at a job
const DOING = { align: "Learning to find pictures by words", fit: "Learning to recognise" };

let watching = null; // the id of the job that is looked at
let seen = null; // what the last job came to, until the page is left

export function render(view, state, context) {
  if (view.firstElementChild) return;
  const { status } = context;
  if (!status) {
    view.replaceChildren(h("p", { class: "sentence", role: "status" }, "There is no collection yet: make one, and add files to it."), collections(context));
    return;
  }
  const learning = h("section", { id: "learning", "aria-label": "Learning" });
  view.replaceChildren(adding(context, () => learn(learning, context.now())), learning, collections(context));
  learn(learning, context);
}

// ---------------------------------------------------------------------------------------------------------- files

function adding({ status, refresh, now }, learnAgain) {
  const count = h("span", { class: "note" }, `${counted(status.items, "item")} now`);
  const outcome = h("div", { id: "added", "aria-live": "polite" });
  const picker = (id, label, props) => {
    const input = h("input", { type: "file", multiple: true, class: "hidden", id: `${id}-input`, tabIndex: -1, "aria-hidden": "true", ...props, onchange: () => send(input) });
    if (props.directory) input.webkitdirectory = true;
    return [button(label, () => input.click(), { id }), input];
  };
  async function send(input) {
    const files = [...input.files];
    const stop = new AbortController();
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Adding" });
    const words = h("span", {});
    outcome.replaceChildren(h("div", { class: "row" }, bar, words, button("Stop", () => stop.abort(), { id: "stop-adding" })));
    const done = await addFiles(files, { signal: stop.signal, tell: (place, total) => {
      [bar.value, bar.max, words.textContent] = [place, total, `${number(place)} of ${counted(total, "item")}`];
    } });
    input.value = "";
    outcome.replaceChildren(h("p", {}, `${number(done.added)} of ${counted(done.total, "item")} added.`),
      done.problems.length ? table(["file", "why it was not added"], done.problems) : "");
    await refresh();
    count.textContent = `${counted(now().status.items, "item")} now`;
    learnAgain();
  }
  return h("section", {}, h("h2", {}, "Add files"),
    note("Files of one name, such as bird.jpg and bird.txt, become one item. The folder that a file lies in becomes its label."),
    h("div", { class: "row" }, picker("choose-files", "Choose files", {}), picker("choose-folder", "Choose a folder", { directory: true }), count), outcome);
}

// ------------------------------------------------------------------------------------------------------- learning

async function learn(section, context) {
  const { status } = context;
  let jobs, models;
  try {
    [jobs, models] = await Promise.all([api.jobs(), api.models()]);
  } catch (error) {
    section.replaceChildren(h("h2", {}, "Learn"), note(error.message));
    return;
  }
  const running = jobs.find((job) => job.state === "running");
  const panel = h("div", { id: "job" });
  const pairs = status.embeddings.image && status.embeddings.text;
  const start = (body) => async (event) => {
    event?.preventDefault();
    try {
      watch(panel, await api.startJob(body()), context, section);
    } catch (error) {
      panel.replaceChildren(problem(error));
    }
  };
  const column = select("fit-column", "Column", status.columns.map((name) => [name, name]), status.label ?? status.columns.find((name) => name === "label") ?? status.columns[0]);
  const name = h("input", { name: "model", id: "fit-model", maxLength: 64, placeholder: "as the column", autocomplete: "off" });
  const body = () => ({ kind: "fit", label: column.querySelector("select").value, ...(name.value.trim() ? { model: name.value.trim() } : {}) });
  section.replaceChildren(
    h("h2", {}, "Find better"),
    pairs
      ? h("div", { class: "row" }, button("Learn from pictures and their texts", start(() => ({ kind: "align" })), { id: "align", disabled: Boolean(running) }))
      : note("This takes items with a picture and a text, such as bird.jpg and bird.txt in one folder."),
    h("h2", {}, "Recognise"),
    status.columns.length
      ? h("form", { class: "fields", onsubmit: start(body) }, column, h("label", { class: "field" }, "Name of the model", name), h("button", { id: "fit", disabled: Boolean(running) }, "Learn"))
      : note("This takes a column with a label. Choose a folder with a folder for each label, or add a table with chiasm add."),
    panel,
    models.models.length ? h("h2", {}, "Models") : "",
    models.models.length ? h("ul", { id: "models", class: "plain" }, models.models.map((one) => h("li", { class: "row" },
      one === models.current ? [h("b", {}, one), h("span", { class: "note" }, "recognises now")] : button(`Use ${one}`, () => use(one, section, context))))) : "");
  if (running) watch(panel, running, context, section);
  else if (seen) panel.replaceChildren(...outcomeOf(seen, models.current));
}

async function use(name, section, context) {
  try {
    await api.useModel(name);
    toast(`${name} recognises from now on.`);
    await context.refresh();
    learn(section, context.now());
  } catch (error) {
    toast(error);
  }
}

// Show how far a job is until it is over or the view is left; then what came of it.
async function watch(panel, job, context, section) {
  watching = job.id;
  for (const control of section.querySelectorAll("#align, #fit")) control.disabled = true;
  const bar = h("progress", { "aria-label": "Progress" });
  const words = h("span", { role: "status" });
  const stop = button("Cancel", () => api.cancelJob(job.id).catch(toast), { id: "cancel-job" });
  panel.replaceChildren(h("p", {}, `${DOING[job.kind]} (${job.collection}).`), h("div", { class: "row" }, bar, words, stop));
  while (job.state === "running") {
    words.textContent = job.progress || "Starting …";
    const [, done, total] = /([\d,]+) of ([\d,]+)/.exec(job.progress) ?? [];
    if (total) [bar.value, bar.max] = [Number(done.replaceAll(",", "")), Number(total.replaceAll(",", ""))];
    await new Promise((resolve) => setTimeout(resolve, OFTEN));
    if (!panel.isConnected || watching !== job.id) return;
    job = await api.job(job.id).catch(() => job);
  }
  seen = job;
  await context.refresh();
  if (section.isConnected) learn(section, context.now());
}

function outcomeOf(job, current) {
  if (job.state === "cancelled") return [note("Cancelled. What was there before stays.")];
  if (job.state === "failed") return [problem(new Error(job.error))];
  const { sentence, before } = job.result;
  return [h("p", { class: "sentence well", role: "status" }, sentence), before ? note(`Before: ${before}`) : "",
    note(!job.model ? "It is searched so from now on." : `Report has the rest. ${job.model} ${job.model === current ? "recognises from now on" : "recognises when it is chosen below"}.`)];
}

// ---------------------------------------------------------------------------------------------------- collections

function collections({ shelf }) {
  const link = (one) => h("li", {}, h("a", { href: `${one.address}/`, "aria-current": one === shelf.current && "page" }, one.name));
  const field = h("input", { id: "new-collection", required: true, maxLength: 64, autocomplete: "off" });
  const trouble = h("div", {});
  const make = async (event) => {
    event.preventDefault();
    try {
      const { address } = await api.makeCollection(field.value.trim());
      location.href = `${address}/?view=manage`;
    } catch (error) {
      trouble.replaceChildren(problem(error));
    }
  };
  if (!shelf.makes && shelf.collections.length < 2) return "";
  return h("section", {}, h("h2", {}, "Collections"), shelf.collections.length > 0 && h("ul", { id: "shelf", class: "plain" }, shelf.collections.map(link)),
    shelf.makes && h("form", { class: "fields", onsubmit: make }, h("label", { class: "field" }, "Name of a new one", field), h("button", { id: "make" }, "Make")), trouble);
}

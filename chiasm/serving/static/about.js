// Report and status: the newest report of the collection, what is served, and which files could not be used.

import * as api from "./api.js";
import { h, note, problem, table } from "./dom.js";

export function renderReport(view) {
  view.ondragover = view.ondrop = view.onpaste = null;
  fetch("/report", { method: "HEAD" }).then((answer) => view.replaceChildren(...(answer.ok
    ? [h("p", {}, h("a", { href: "/report", target: "_blank", rel: "noopener" }, "Open alone")),
      h("iframe", { id: "report", src: "/report", sandbox: "", title: "Newest report" })]
    : [note("There is no report yet. chiasm evaluate COLLECTION --report COLLECTION/reports/NAME.html writes one and shows it here.")])));
}

const described = ({ name, modalities, licence, parameters, size }) => [
  `${name} (${modalities.join(", ")}): ${licence || "licence unknown"}`,
  parameters && `${(parameters / 1e6).toFixed(1)} million parameters`, size && `${(size / 1e6).toFixed(1)} MB`,
].filter(Boolean).join(", ");

export async function renderStatus(view, _, { status }) {
  view.ondragover = view.ondrop = view.onpaste = null;
  const counts = (values) => Object.entries(values).map(([name, count]) => `${count} ${name}`).join(", ") || "none";
  view.replaceChildren(
    h("h2", {}, status.name),
    table(["", ""], [
      ["items", String(status.items)], ["files", counts(status.outcomes)], ["embeddings", counts(status.embeddings)],
      ["encoder", status.encoder], ...status.models.map((model) => ["model", described(model)]), ["columns", status.columns.join(", ") || "none"],
      ["spaces", `${status.spaces.join(", ")} (the last is searched)`], ["ratings and labels", counts(status.ratings)],
      ["chiasm", status.version],
    ]),
    ...status.notes.map(note));
  const warnings = h("section", { id: "drift" });
  const files = h("section", { id: "outcomes" });
  view.append(warnings, files);
  if (status.learns) {
    await api.drift().then(({ warnings: rows }) => warnings.replaceChildren(
      rows.length ? h("ul", {}, rows.map((row) => h("li", { class: "problem" }, row))) : note("New items look like those that the model was trained on.")),
    (error) => warnings.replaceChildren(problem(error)));
  }
  await api.outcomes().then(({ files: rows, total }) => rows.length && files.replaceChildren(
    h("h2", {}, `Files that could not be used (${total})`),
    table(["file", "outcome", "reason"], rows.map((row) => [row.file, row.outcome, row.reason]))),
  (error) => files.replaceChildren(problem(error)));
}

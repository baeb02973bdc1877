// Report and Health: one plain sentence first, then what is behind it.

import * as api from "./api.js";
import { counted, h, note, number, problem, table } from "./dom.js";
import { base } from "./state.js";

export function renderReport(view) {
  if (view.firstElementChild) return;
  view.replaceChildren(note("Loading …"));
  api.hasReport().then((isThere) => view.replaceChildren(...(isThere
    ? [h("div", { class: "row between" }, h("h2", {}, "Newest report"), h("a", { href: `${base}/report`, target: "_blank", rel: "noopener" }, "Open alone")),
      h("iframe", { id: "report", src: `${base}/report`, sandbox: "", title: "Newest report" })]
    : [h("h2", {}, "Nothing was measured yet"),
      note("chiasm evaluate COLLECTION --report COLLECTION/reports/NAME.html measures how good the answers are, and shows it here.")])),
  (error) => view.replaceChildren(problem(error)));
}

const described = ({ name, modalities, licence, parameters, size }) => [
  `${name} (${modalities.join(", ")}): ${licence || "licence unknown"}`,
  parameters && `${(parameters / 1e6).toFixed(1)} million parameters`, size && `${(size / 1e6).toFixed(1)} MB`,
].filter(Boolean).join(", ");

const counts = (values) => Object.entries(values).map(([name, count]) => `${number(count)} ${name}`).join(", ") || "none";
const rated = ({ thumb, label, people, items }) => thumb + label
  ? `${counted(thumb, "thumb")} and ${counted(label, "label")} on ${counted(items, "item")}, by ${people === 1 ? "one person" : `${number(people)} people`}` : "none";

export async function renderHealth(view, _, { status }) {
  if (view.firstElementChild) return;
  const sentence = h("p", { id: "sentence", class: "sentence", role: "status" }, "Looking …");
  const warnings = h("section", { id: "drift" });
  const files = h("section", { id: "outcomes" });
  view.replaceChildren(sentence, warnings, files, h("h2", {}, "What is served"),
    table([], [
      ["items", number(status.items)], ["files", counts(status.outcomes)], ["embeddings", counts(status.embeddings)],
      ["encoder", status.encoder], ...status.models.map((model) => ["model", described(model)]), ["columns", status.columns.join(", ") || "none"],
      ["spaces", `${status.spaces.join(", ")} (the last is searched)`], ["ratings and labels", rated(status.ratings)],
      ["chiasm", status.version],
    ]),
    ...status.notes.map(note));
  const [drift, outcomes] = await Promise.all([
    status.learns ? api.drift().catch((error) => ({ sentence: "", warnings: [], note: error.message })) : { sentence: "", warnings: [] },
    api.outcomes().catch((error) => ({ files: [], total: 0, error })),
  ]);
  const isWell = !drift.warnings.length && !outcomes.total;
  const used = outcomes.total ? `${counted(outcomes.total, "file")} could not be used` : "every file could be used";
  const parts = [isWell && counted(status.items, "item"), outcomes.error ? "" : used, drift.sentence].filter(Boolean);
  sentence.textContent = `${isWell ? "All is well" : "Worth a look"}: ${parts.join("; ")}.`;
  sentence.classList.add(isWell ? "well" : "look");
  warnings.replaceChildren(drift.warnings.length ? h("ul", {}, drift.warnings.map((row) => h("li", {}, row))) : "", drift.note ? note(drift.note) : "");
  if (outcomes.error) files.replaceChildren(problem(outcomes.error));
  else if (outcomes.files.length) {
    files.replaceChildren(h("h2", {}, `Files that could not be used (${number(outcomes.total)})`),
      table(["file", "outcome", "reason"], outcomes.files.map((row) => [row.file, row.outcome, row.reason])));
  }
}

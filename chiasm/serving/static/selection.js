// Items that people choose, and the bar of what can be done with them.

import * as api from "./api.js";
import { askFor, button, counted, h, toast } from "./dom.js";
import { everyId } from "./results.js";

export class Selection {
  constructor() {
    this.ids = new Set();
    this.bar = h("div", { class: "selected", role: "region", "aria-label": "Selected items", hidden: true });
    this.last = null;
  }

  // The grid that shows the items now.
  attach(list, shown) {
    this.list = list;
    this.shown = shown;
    this.last = null;
  }

  has(id) { return this.ids.has(id); }

  toggle(id, place, isRange) {
    const on = !this.ids.has(id);
    const range = isRange && this.last !== null ? [Math.min(this.last, place), Math.max(this.last, place)] : [place, place];
    for (const hit of this.shown.hits.slice(range[0], range[1] + 1)) this.ids[on ? "add" : "delete"](hit.id);
    this.last = place;
    this.update();
  }

  // A click with Ctrl or Shift chooses instead of opening.
  takesClick(event, id, place) {
    if (!event.shiftKey && !event.ctrlKey && !event.metaKey) return false;
    event.preventDefault();
    this.toggle(id, place, event.shiftKey);
    return true;
  }

  clear() {
    this.ids.clear();
    this.update();
  }

  update() {
    for (const card of this.list?.children ?? []) {
      const on = this.ids.has(card.dataset.id);
      card.classList.toggle("picked", on);
      card.querySelector(".pick").checked = on;
    }
    this.list?.classList.toggle("picking", this.ids.size > 0);
    this.bar.hidden = !this.ids.size;
    this.render();
    this.onchange?.();
  }

  show(state, context) {
    Object.assign(this, { state, context });
    this.render();
  }

  render() {
    const { state, context } = this;
    if (!context || !this.ids.size) return;
    const { status } = context;
    const act = (label, work, props) => button(label, () => work.call(this).catch(toast), props);
    this.bar.replaceChildren(
      h("b", { role: "status" }, `${counted(this.ids.size, "item")} selected`),
      h("div", { class: "row" },
        act("Select all", this.all, { id: "select-all" }),
        status.labels && status.columns.length > 0 && act("Label", this.label, { id: "label" }),
        act("Add to a list or tag", this.addToList, { id: "add-to-list" }),
        state.list && act("Take off the list", this.takeOff, { id: "take-off" }),
        act("CSV", () => this.export("csv"), { id: "csv", title: "Export as CSV" }),
        act("Parquet", () => this.export("parquet"), { title: "Export as Parquet" }),
        act("Files", () => this.export("zip"), { id: "zip", title: "Export the files as a ZIP archive" }),
        status.edits && act("Remove", this.remove, { id: "remove", class: "danger" }),
        button("Clear the selection", () => this.clear(), { icon: "close", id: "unselect" })));
  }

  async all() {
    for (const id of await everyId(this.state, this.context.chosen)) this.ids.add(id);
    this.update();
  }

  async label() {
    const { status } = this.context;
    const column = status.label ?? (status.columns.length === 1 ? status.columns[0] : await askFor("Which column is labelled?", { field: "Column", options: status.columns, action: "Next" }));
    if (!column) return;
    const known = (await api.facets({ column })).columns.flatMap((facet) => facet.values.map(({ value }) => String(value)));
    const value = await askFor(`What is the right “${column}” of ${counted(this.ids.size, "item")}?`, { field: "Label", options: known, action: "Label" });
    if (!value) return;
    const ids = [...this.ids];
    for (let start = 0; start < ids.length; start += 1000) {
      await api.label(ids.slice(start, start + 1000).map((item) => ({ item, label: value, column })));
    }
    toast(`${counted(ids.length, "item")} labelled “${value}”. A model learns it the next time.`);
    this.clear();
  }

  async addToList() {
    const names = Object.keys(await api.lists());
    const name = await askFor(`Add ${counted(this.ids.size, "item")} to a list`, { field: "Name of the list or tag, old or new", options: names, action: "Add" });
    if (!name) return;
    const { size } = await changed(name, "add", [...this.ids]);
    toast(`The list “${name}” has ${counted(size, "item")} now.`);
    this.clear();
    this.context.refresh();
  }

  async takeOff() {
    await changed(this.state.list, "remove", [...this.ids]);
    this.clear();
    this.context.refresh();
  }

  async export(format) {
    toast("Exporting …");
    const blob = await api.exported({ format, ids: [...this.ids].slice(0, 10_000) });
    const link = h("a", { href: URL.createObjectURL(blob), download: `${this.context.status.name}.${format}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    toast(this.ids.size > 10_000 ? "The first 10,000 items were exported: that is the most at a time." : "Exported.");
  }

  async remove() {
    const ids = [...this.ids];
    const sure = await askFor(`Remove ${counted(ids.length, "item")} from the collection?`,
      { text: "Their files stay where they are. Adding the same folder again brings them back.", action: "Remove", danger: true });
    if (!sure) return;
    let removed = 0;
    for (let start = 0; start < ids.length; start += 10_000) removed += await api.remove(ids.slice(start, start + 10_000));
    toast(`${counted(removed, "item")} removed.`);
    this.clear();
    this.context.refresh();
  }
}

async function changed(name, how, ids) {
  let answer = { size: 0 };
  for (let start = 0; start < ids.length; start += 10_000) answer = await api.changeList(name, { [how]: ids.slice(start, start + 10_000) });
  return answer;
}

// The URL is the state: what is asked for, filtered, sorted and shown. Back works, and an address can be sent to others.

const WORDS = ["view", "text", "minus", "modality", "where", "sort", "list", "item", "of", "by", "layout", "lasso", "why"];
const LISTS = ["like", "liked", "disliked", "upload", "has"];
const FLAGS = ["hybrid", "map"];
const FILTERS = ["is", "eq", "min", "max"]; // texts, numbers and truth values, ends of ranges: is.COLUMN=VALUE

export const VIEWS = ["search", "teach", "report", "health", "manage"];
export const base = location.pathname.match(/^\/c\/[^/]+/)?.[0] ?? ""; // of one of several collections

export function read(query = location.search) {
  const params = new URLSearchParams(query);
  const state = {};
  for (const name of WORDS) state[name] = params.get(name) ?? "";
  for (const name of LISTS) state[name] = params.getAll(name);
  for (const name of FLAGS) state[name] = params.has(name);
  for (const name of FILTERS) state[name] = {};
  for (const [name, value] of params) {
    const [kind, column] = [name.slice(0, name.indexOf(".")), name.slice(name.indexOf(".") + 1)];
    if (!FILTERS.includes(kind) || !column) continue;
    state[kind][column] = kind === "min" || kind === "max" ? value : [...(state[kind][column] ?? []), value];
  }
  if (!VIEWS.includes(state.view)) state.view = "search";
  return state;
}

export function write(state) {
  const params = new URLSearchParams();
  for (const name of WORDS) if (state[name] && !(name === "view" && state.view === "search")) params.set(name, state[name]);
  for (const name of LISTS) for (const value of state[name]) params.append(name, value);
  for (const name of FLAGS) if (state[name]) params.set(name, "1");
  for (const kind of FILTERS) {
    for (const [column, value] of Object.entries(state[kind])) {
      for (const one of Array.isArray(value) ? value : [value]) params.append(`${kind}.${column}`, one);
    }
  }
  const query = params.toString();
  return `${base}/${query ? `?${query}` : ""}`;
}

// What a search starts from: nothing asked and nothing rated, the rest as it is.
export const FRESH = { text: "", minus: "", like: [], liked: [], disliked: [], upload: [], item: "" };
export const UNFILTERED = { has: [], is: {}, eq: {}, min: {}, max: {}, where: "", list: "", lasso: "" };

export const isQuery = (state) => Boolean(state.text || state.upload.length || state.like.length);
export const isFiltered = (state) => Boolean(conditions(state) || state.list || state.lasso);

const quoted = (column) => `"${column.replaceAll('"', '""')}"`;
const literal = (text) => `'${text.replaceAll("'", "''")}'`;
const plain = (value) => (/^(-?\d+(\.\d+)?(e[+-]?\d+)?|true|false)$/i.test(value) ? value : literal(value));

// The filters as one condition in the API's language; those of one column can be left out, to count what else there is.
export function conditions(state, without = null) {
  const parts = state.has.map((modality) => `${modality} IS NOT NULL`);
  for (const [kind, write] of [["is", literal], ["eq", plain]]) {
    for (const [column, values] of Object.entries(state[kind])) {
      if (column === without) continue;
      const some = values.filter((value) => value !== "");
      const either = [some.length && `${quoted(column)} IN (${some.map(write).join(", ")})`, some.length < values.length && `${quoted(column)} IS NULL`];
      parts.push(`(${either.filter(Boolean).join(" OR ")})`);
    }
  }
  for (const [kind, sign] of [["min", ">="], ["max", "<="]]) {
    for (const [column, value] of Object.entries(state[kind])) {
      if (column !== without) parts.push(`${quoted(column)} ${sign} ${plain(value)}`);
    }
  }
  if (state.where) parts.push(parts.length ? `(${state.where})` : state.where);
  return parts.join(" AND ");
}

export const filtered = (state) => [...new Set(["is", "eq", "min", "max"].flatMap((kind) => Object.keys(state[kind])))];

// Put a value in or out of a filter.
export function toggled(state, kind, column, value) {
  const values = state[kind][column] ?? [];
  const next = values.includes(value) ? values.filter((one) => one !== value) : [...values, value];
  const { [column]: _, ...others } = state[kind];
  return { [kind]: next.length ? { ...others, [column]: next } : others };
}

export function ranged(state, column, low, high) {
  const next = {};
  for (const [kind, value] of [["min", low], ["max", high]]) {
    const { [column]: _, ...others } = state[kind];
    next[kind] = value === "" ? others : { ...others, [column]: value };
  }
  return next;
}

// Where hits come from, a page at a time: a search, the items in an order, or items that were chosen by a lasso or a list.

import * as api from "./api.js";
import { h } from "./dom.js";
import { conditions, isQuery, write } from "./state.js";

const FIRST = 24; // hits of the first page, which people wait for
const PAGE = 60;
const DEEPEST = 1000; // hits that are looked through for those of a list or a lasso

const queryOf = (state) => ({
  text: state.text, minus: state.minus, like: state.like, liked: state.liked, disliked: state.disliked, uploads: state.upload,
  modality: state.modality, where: conditions(state), hybrid: state.hybrid || null,
});

// A source has `next()`, which resolves to { hits, done, total, found, notes }; total is null where nobody knows.
export function sourceOf(state, chosen) {
  const stop = new AbortController();
  const pages = isQuery(state) ? searched(state, chosen, stop.signal) : chosen ? listed(state, chosen, stop.signal) : browsed(state, stop.signal);
  return { next: () => pages.next().then(({ value, done }) => (done ? { hits: [], done: true } : value)), stop: () => stop.abort() };
}

async function* searched(state, chosen, signal) {
  for (let offset = 0, k = FIRST; offset + k <= 10_000; offset += k, k = PAGE) {
    const answer = await api.search({ ...queryOf(state), k, offset }, { signal });
    const hits = chosen ? answer.hits.filter((hit) => chosen.has(hit.id)) : answer.hits;
    const done = answer.hits.length < k || offset + k + PAGE > (chosen ? DEEPEST : 10_000);
    yield { ...answer, hits, done, total: null };
    if (done) return;
  }
}

async function* browsed(state, signal) {
  let after = null;
  do {
    const answer = await api.items({ limit: after === null ? FIRST : PAGE, after, where: conditions(state), sort: state.sort, within: state.list }, { signal });
    after = answer.next;
    yield { hits: answer.items.map(asHit), done: after === null, total: answer.total, notes: [] };
  } while (after !== null);
}

async function* listed(state, chosen, signal) {
  const every = await api.ids({ where: conditions(state), sort: state.sort, within: state.list });
  const ids = every.filter((id) => chosen.has(id));
  let start = 0;
  do {
    const page = ids.slice(start, start + PAGE);
    const items = page.length ? (await api.items({ ids: page }, { signal })).items : [];
    start += PAGE;
    yield { hits: items.map(asHit), done: start >= ids.length, total: ids.length, notes: [] };
  } while (start < ids.length);
}

// An item that nobody has looked for, as a hit without a score.
export function asHit(item) {
  const first = item.media.find((one) => one.modality !== "text") ?? item.media[0] ?? { modality: "text", text: null, url: null };
  return { id: item.id, caption: item.caption, preview: item.preview, metadata: item.metadata, modality: first.modality, url: first.url,
    text: first.text, moments: [], start: null, end: null, probability: null, band: null, score: null };
}

// The ids of all of a result, of a search the first thousand.
export async function everyId(state, chosen) {
  let ids;
  if (isQuery(state)) {
    ids = (await api.search({ ...queryOf(state), k: DEEPEST })).hits.map((hit) => hit.id);
  } else {
    ids = await api.ids({ where: conditions(state), sort: state.sort, within: state.list });
  }
  return chosen ? ids.filter((id) => chosen.has(id)) : ids;
}

// A link to another item, which the dialog goes on to in place; with Ctrl it opens elsewhere.
export function itemLink(id, title, { state, go, follow }, child) {
  const href = write({ ...state, item: id });
  return h("a", { href, title, onclick: (event) => {
    if (event.ctrlKey || event.metaKey) return follow(event, href);
    event.preventDefault();
    return go({ item: id }, { replace: true });
  } }, child);
}

// The REST API. A refused request becomes an Error with the server's own words.

import { base } from "./state.js";

async function asked(path, options = {}) {
  let answer;
  try {
    answer = await fetch(base + path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.detail ?? `${answer.status} ${answer.statusText}`);
}

const ask = (path, options) => asked(path, options).then((answer) => answer.json());
const body = (value) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });
const json = (path, value) => ask(path, body(value));

function query(values) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== undefined && one !== "") params.append(name, one);
  }
  return params;
}

function form(values) {
  const data = new FormData();
  for (const [name, value] of Array.isArray(values) ? values : Object.entries(values)) data.append(name, value);
  return { method: "POST", body: data };
}

const at = (id) => `/v1/items/${encodeURIComponent(id)}`;

export const status = () => ask("/v1/status");
export const search = (values, options) => ask(`/v1/search?${query({ ...values, cards: true })}`, options).then((answer) => answer.results[0]);
export const item = (id) => ask(at(id));
export const items = (values, options) => ask(`/v1/items?${query(values)}`, options);
export const ids = (values) => ask(`/v1/ids?${query(values)}`).then((answer) => answer.ids);
export const moments = (id) => ask(`${at(id)}/moments`).then((answer) => answer.moments);
export const prediction = (id) => ask(`${at(id)}/prediction`);
export const explanation = (id, values) => ask(`${at(id)}/explanation?${query(values)}`);
export const match = (id, text) => ask(`${at(id)}/match?${query({ text })}`).then((answer) => answer.pictures);
export const facets = (values, options) => ask(`/v1/facets?${query(values)}`, options);
export const map = (values) => ask(`/v1/map?${query(values)}`);
export const outcomes = () => ask("/v1/outcomes");
export const drift = () => ask("/v1/drift");
export const lists = () => ask("/v1/lists").then((answer) => answer.lists);
export const list = (name) => ask(`/v1/list?${query({ name })}`).then((answer) => answer.ids);
export const changeList = (name, change) => json("/v1/list", { name, ...change });
export const deleteList = (name) => ask(`/v1/list?${query({ name })}`, { method: "DELETE" });
export const upload = (file) => ask("/v1/uploads", form({ file })).then((answer) => answer.upload);
export const rate = (entry) => json("/v1/feedback", { entries: [entry] });
export const label = (entries) => json("/v1/labels", { entries });
export const remove = (chosen) => json("/v1/remove", { ids: chosen }).then((answer) => answer.removed);
export const review = (limit) => ask(`/v1/review?limit=${limit}`);
export const learn = () => ask("/v1/learn", { method: "POST" });
export const predict = (file) => ask("/v1/predict", form({ file })).then((answer) => answer.predictions[0]);
export const teach = (file, name) => ask("/v1/items", form({ file, label: name }));
export const add = (files, folder) => ask("/v1/items", form([...files.map((file) => ["file", file]), ...(folder ? [["folder", folder]] : [])])).then((answer) => answer.id);
export const collections = () => ask("/v1/collections");
export const makeCollection = (name) => json("/v1/collections", { name });
export const models = () => ask("/v1/models");
export const useModel = (name) => json("/v1/models", { name });
export const jobs = () => ask("/v1/jobs").then((answer) => answer.jobs);
export const job = (id) => ask(`/v1/jobs/${id}`);
export const startJob = (body) => json("/v1/jobs", body);
export const cancelJob = (id) => ask(`/v1/jobs/${id}`, { method: "DELETE" });
export const hasReport = () => fetch(`${base}/report`, { method: "HEAD" }).then((answer) => answer.ok);
export const exported = (value) => asked("/v1/export", body(value)).then((answer) => answer.blob());

// The REST API. A refused request becomes an Error with the server's own words.

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer.json();
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.detail ?? `${answer.status} ${answer.statusText}`);
}

const json = (path, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

const query = (values) =>
  new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== ""));

export const status = () => ask("/v1/status");
export const item = (id) => ask(`/v1/items/${encodeURIComponent(id)}`);
export const items = (values) => ask(`/v1/items?${query(values)}`);
export const outcomes = () => ask("/v1/outcomes");
export const drift = () => ask("/v1/drift");
export const map = (values) => ask(`/v1/map?${query(values)}`);
export const rate = (entry) => json("/v1/feedback", { entries: [entry] });
export const label = (entry) => json("/v1/labels", { entries: [entry] });
export const learn = () => ask("/v1/learn", { method: "POST" });

export function search(fields, files) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "" && one !== false) form.append(name, one);
    }
  }
  for (const { modality, file } of files) form.append(modality, file);
  return ask("/v1/search", { method: "POST", body: form }).then((body) => body.results[0]);
}

export function predict(file) {
  const form = new FormData();
  form.append("file", file);
  return ask("/v1/predict", { method: "POST", body: form }).then((body) => body.predictions[0]);
}

export function predictItem(id) {
  return ask(`/v1/items/${encodeURIComponent(id)}/prediction`);
}

export function teach(file, name) {
  const form = new FormData();
  form.append("file", file);
  form.append("label", name);
  return ask("/v1/items", { method: "POST", body: form });
}

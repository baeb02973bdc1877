// The query bar: words, and a chip for each other part of the query; files by choosing, pasting, dropping, recording.

import * as api from "./api.js";
import { button, h, icon, toast } from "./dom.js";
import { FRESH, base } from "./state.js";

const files = new Map(); // names and pictures of the files that were sent from this window, by the name that the server gave them
const MINUS = /(?:^|\s)-(?=[^\s\d-])(.*)$/su; // a word with a minus before it begins what is not wanted

export function split(words) {
  const match = MINUS.exec(words);
  return match ? { text: words.slice(0, match.index).trim(), minus: match[1].replaceAll(/\s-/g, " ").trim() } : { text: words.trim(), minus: "" };
}

export function queryBar(state, status, go) {
  const takes = (modality) => status.modalities.includes(modality);
  const words = h("input", {
    id: "words", type: "search", value: state.text, maxLength: 10000, autocomplete: "off", enterKeyHint: "search",
    placeholder: takes("text") ? "Search with words; -words for what is not wanted" : "This collection is searched with files", "aria-label": "Search with words",
    disabled: !takes("text"),
  });
  const submit = (event) => {
    event?.preventDefault();
    const { text, minus } = split(words.value);
    go({ text, minus: minus || state.minus, liked: [], disliked: [], item: "" });
  };
  words.addEventListener("search", () => { if (!words.value && state.text) submit(); });
  const attach = (chosen) => attachFiles(chosen, state, go);
  const picker = (id, props) => {
    const input = h("input", { id, type: "file", class: "hidden", tabIndex: -1, "aria-hidden": "true", onchange: () => attach(input.files), ...props });
    return input;
  };
  const any = picker("file", { multiple: true });
  const camera = picker("camera", { accept: "image/*" });
  camera.setAttribute("capture", "environment");
  return h("form", { class: "ask", role: "search", onsubmit: submit },
    h("div", { class: "bar" },
      chips(state, go), words,
      button("Search with a file", () => any.click(), { icon: "picture", id: "attach" }), any,
      takes("image") && button("Search with the camera", () => camera.click(), { icon: "camera", id: "shoot", class: "touch" }), camera,
      takes("audio") && recorder(attach),
      h("button", { id: "go", class: "primary", "aria-label": "Search" }, icon("search"))));
}

async function attachFiles(chosen, state, go) {
  if (!chosen.length) return;
  toast("Sending …");
  try {
    const names = [];
    for (const file of chosen) {
      const name = await api.upload(file);
      files.set(name, { label: file.name, kind: file.type.split("/")[0] });
      names.push(name);
    }
    toast("");
    go({ upload: [...new Set([...state.upload, ...names])].slice(0, 8), liked: [], disliked: [], item: "" });
  } catch (error) {
    toast(error);
  }
}

// Files that are dropped or pasted anywhere on the view become part of the query.
export function takeFiles(view, state, go) {
  const has = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  view.ondragover = (event) => { if (has(event)) { event.preventDefault(); view.classList.add("dropping"); } };
  view.ondragleave = (event) => { if (!view.contains(event.relatedTarget)) view.classList.remove("dropping"); };
  view.ondrop = (event) => {
    if (!has(event)) return;
    event.preventDefault();
    view.classList.remove("dropping");
    attachFiles(event.dataTransfer.files, state, go);
  };
  document.onpaste = (event) => {
    if (event.clipboardData.files.length) { event.preventDefault(); attachFiles(event.clipboardData.files, state, go); }
  };
}

function chips(state, go) {
  const chip = (kind, content, values, name) => h("li", { class: `chip ${kind}` }, content,
    button(`Remove ${name}`, () => go({ ...values, item: "" }), { icon: "close" }));
  const without = (name, value) => ({ [name]: state[name].filter((one) => one !== value) });
  const all = [
    ...state.upload.map((name) => chip("file", fileOf(name), without("upload", name), files.get(name)?.label ?? "the file")),
    ...state.like.map((id) => chip("like", [h("b", {}, "like "), id], without("like", id), `like ${id}`)),
    state.minus && chip("minus", [h("b", {}, "not "), state.minus], { minus: "" }, `not ${state.minus}`),
    (state.liked.length || state.disliked.length) && chip("rated", `${state.liked.length + state.disliked.length} rated`, { liked: [], disliked: [] }, "ratings"),
  ].filter(Boolean);
  return all.length ? h("ul", { class: "chips", "aria-label": "Parts of the query" }, all) : "";
}

function fileOf(name) {
  const known = files.get(name);
  const label = known?.label ?? "file";
  if (known && known.kind !== "image" && known.kind !== "video") return [icon("sound"), label];
  const image = h("img", { src: `${base}/v1/uploads/${encodeURIComponent(name)}?size=160`, alt: "", class: "mini" });
  image.addEventListener("error", () => image.remove(), { once: true });
  return [image, label];
}

function recorder(attach) {
  let running = null;
  const control = button("Search with a sound from the microphone", async () => {
    if (running) return running.stop();
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      return toast("The microphone cannot be used.");
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
    control.setAttribute("aria-pressed", "true");
    control.setAttribute("aria-label", "Stop recording");
    return control.replaceChildren("Stop");
  }, { icon: "sound", id: "record" });
  return control;
}

// A search for what is like an item.
export const likeOnly = (id) => ({ ...FRESH, view: "search", like: [id] });

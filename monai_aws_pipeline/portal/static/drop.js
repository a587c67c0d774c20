// The drop zone: gathers files, has the worker look at them, sends them, and says how far it is.

import { Refused } from "./api.js";
import { fill, sized, textsOf } from "./texts.js";
import { forget, send } from "./upload.js";

const zone = document.getElementById("drop");
const texts = textsOf(zone);
const said = document.getElementById("said");
const counted = document.getElementById("counted");
const bar = document.getElementById("bar");
const cancel = document.getElementById("cancel");
const choices = [...zone.querySelectorAll("[data-opens]")];
let under_way = null;

function say(key, values = {}, failed = false) {
  said.textContent = fill(texts[key] ?? texts.internal, values);
  said.classList.toggle("failed", failed);
}

/** All files below what was dropped; a folder gives its entries a hundred at a time. */
async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return found;
    for (const each of entries) found.push(...(await filesIn(each)));
  }
}

async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const found = [];
  for (const entry of entries) found.push(...(await filesIn(entry)));
  return found;
}

/** What is to be sent of these files, by the worker. */
function prepared(files, signal) {
  const worker = new Worker("/static/zip.js", { type: "module" });
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    worker.onerror = () => reject(new Refused("internal"));
    worker.onmessage = ({ data }) => (data.ready ? resolve(data.ready) : say("checking", data.progress));
    worker.postMessage({ files });
  }).finally(() => worker.terminate());
}

async function start(gather) {
  if (under_way) return;
  const ending = new AbortController();
  under_way = { ending, fingerprint: "" };
  busy(true);
  try {
    const files = (await gather()).sort((one, other) => (pathOf(one) < pathOf(other) ? -1 : 1)); // the same files make the same zip
    const ready = await prepared(files, ending.signal);
    if (ready.refused) throw new Refused(ready.refused, ready);
    under_way.fingerprint = ready.fingerprint;
    counted.textContent = fill(texts[ready.zip ? "counted_zip" : "counted"], { ...ready, size: sized(ready.blob.size) });
    const job = await send(ready.blob, ready.fingerprint, waysOf(ready.blob.size, ending.signal));
    say("complete");
    under_way.done = true;
    window.location.assign(`/follow/${job}`);
  } catch (error) {
    if (ending.signal.aborted) {
      await forget(under_way.fingerprint);
      say("cancelled");
      counted.textContent = "";
    } else say(error instanceof Refused ? error.code : "unreadable", error.values, true);
  } finally {
    under_way = null;
    busy(false);
  }
}

const pathOf = (file) => file.webkitRelativePath || file.name;

function waysOf(all, signal) {
  const onProgress = (bytes) => {
    bar.value = bytes / all;
    say("sending", { done: sized(bytes), all: sized(all) });
  };
  onProgress(0);
  return { signal, onProgress, onWait: () => say("waiting_line"), onResume: () => (counted.textContent += ` ${texts.resuming}`) };
}

function busy(now) {
  zone.classList.toggle("busy", now);
  for (const button of choices) button.disabled = now;
  bar.hidden = !now;
  cancel.hidden = !now;
  if (now) {
    bar.removeAttribute("value");
    counted.textContent = "";
    say("checking", { done: 0, all: "…" });
  }
}

zone.addEventListener("dragover", (event) => {
  event.preventDefault();
  zone.classList.add("over");
});
zone.addEventListener("dragleave", () => zone.classList.remove("over"));
zone.addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  const files = filesOf(event.dataTransfer); // its items are there during the event only
  start(() => files);
});
for (const button of choices) {
  const input = document.getElementById(button.dataset.opens);
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) start(async () => files);
  });
}
cancel.addEventListener("click", () => under_way?.ending.abort());
window.addEventListener("beforeunload", (event) => {
  if (under_way && !under_way.done) event.preventDefault();
});

// Shows where a job is, as the portal tells it, until it has ended.

import { fill, textsOf } from "./texts.js";

const STEPS = ["queued", "starting", "fetching", "running", "publishing", "done"];
const place = document.getElementById("follow");
const texts = textsOf(place);
const about = document.getElementById("about");
const ends = document.getElementById("ends");
const steps = new Map([...place.querySelectorAll("[data-state]")].map((element) => [element.dataset.state, element]));

function show(seen) {
  const now = seen.state === "refused" ? "done" : seen.state;
  for (const [state, element] of steps) {
    element.classList.toggle("past", STEPS.indexOf(state) < STEPS.indexOf(now));
    element.toggleAttribute("aria-current", state === now);
  }
  if (seen.ended.length) {
    const last = steps.get("done");
    last.textContent = texts[`state_${seen.state}`];
    document.getElementById("leave").hidden = true;
    last.classList.add(seen.state === "done" ? "good" : "bad");
  }
  // How many are before it counts only while it waits.
  about.textContent = fill(texts[`about_${seen.before ? "behind" : seen.phase}`] ?? texts[`about_${seen.state}`] ?? "", seen);
  ends.replaceChildren(...seen.ended.map(endOf));
}

function endOf(ended) {
  const item = document.createElement("div");
  const link = document.createElement("a");
  link.href = ended.page;
  link.textContent = ended.status === "succeeded" ? texts.open_result : texts.open_why;
  link.className = "button";
  if (ended.code) {
    item.className = "failed";
    const code = document.createElement("strong");
    code.textContent = ended.code;
    const why = document.createElement("p");
    why.textContent = ended.why;
    item.append(code, why);
  }
  item.append(link);
  return item;
}

const source = new EventSource(`/api/jobs/${place.dataset.job}/events`);
source.onmessage = ({ data }) => {
  const seen = JSON.parse(data);
  show(seen);
  if (seen.ended.length) source.close();
};
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) {
    about.textContent = texts.follow_line; // refused: a browser does not ask again by itself
    setTimeout(() => window.location.reload(), 10000);
  }
};

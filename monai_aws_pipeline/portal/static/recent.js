// The recent studies, asked for once the page stands; and the buttons that ask for one again.

import { ask, Refused } from "./api.js";
import { fill, textsOf } from "./texts.js";

const place = document.getElementById("recent");
const texts = textsOf(document.getElementById("drop"));
const search = document.getElementById("search");

async function load() {
  place.inert = true; // what is clicked in a list that is about to go would be answered into nothing
  const query = new URLSearchParams({ study: search.elements.study.value.trim().toLowerCase() });
  try {
    const answer = await fetch(`/recent?${query}`);
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html"); // ours, and nothing in it is run
    place.replaceChildren(...page.body.childNodes);
  } catch (error) {
    place.textContent = fill(texts.recent_failed, { code: error.message });
  } finally {
    place.inert = false;
  }
}

async function askAgain(button) {
  const said = button.nextElementSibling;
  button.disabled = true;
  said.textContent = texts.asking_again;
  try {
    const { job } = await ask("POST", `/api/studies/${button.dataset.study}/again`, { job: button.dataset.job });
    window.location.assign(`/follow/${job}`);
  } catch (error) {
    button.disabled = false;
    said.textContent = error instanceof Refused ? fill(texts[error.code] ?? texts.internal, error.values) : texts.follow_line;
  }
}

place.addEventListener("click", (event) => {
  if (event.target.matches("button[data-study]")) askAgain(event.target);
});
search.addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
load();

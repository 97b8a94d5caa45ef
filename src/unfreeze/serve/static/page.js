"use strict";

const SHOWN = 5;  // classes that are seen at once
const get = (id) => document.getElementById(id);
const input = get("files");
const limit = Number(input.dataset.bytes);
const waiting = [];
let working = false;

/** Writes a probability; nothing is impossible or certain. */
function percent(fraction) {
  if (fraction < 0.0005) return "< 0.1 %";
  return fraction >= 0.9995 ? "> 99.9 %" : `${(100 * fraction).toFixed(1)} %`;
}

const copy = (id) => get(id).content.firstElementChild.cloneNode(true);
const say = (text) => { get("status").textContent = text; };

/** Asks the server, and returns its answer; an Error's message is for people. */
async function ask(file) {
  if (file.size > limit) {
    throw new Error(`It has ${(file.size / 1e6).toFixed(1)} MB, and no more than ${limit / 1e6} MB are taken.`);
  }
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error("It can't be read. Is it a folder, or has it been moved?");
  }
  const form = new FormData();
  form.append("photos", file);
  let response;
  try {
    response = await fetch("predict?heatmap=true", { method: "POST", body: form });
  } catch {
    throw new Error("The server doesn't answer. Is unfreeze serve still running?");
  }
  const answer = await response.json().catch(() => ({ detail: `The server failed (status ${response.status}).` }));
  if (!response.ok) throw new Error(answer.detail);
  return answer.photos[0];
}

function row({ label, probability }) {
  const made = copy("row");
  made.querySelector("bdi").textContent = label;
  made.querySelector(".number").textContent = percent(probability);
  made.querySelector(".bar div").style.width = `${100 * probability}%`;
  return made;
}

function card(name, answer) {
  const made = copy("answer");
  const [best, ...others] = answer.probabilities;
  made.querySelector("h3").textContent = name;
  made.querySelector(".label").textContent = best.label;
  made.querySelector(".lead .number").textContent = percent(best.probability);
  const [view, heatmap] = made.querySelectorAll("img");
  view.src = `data:image/jpeg;base64,${answer.view}`;
  view.alt = `${name}, as the network sees it`;
  if (answer.note) view.nextElementSibling.textContent = answer.note;
  if (answer.heatmap) {
    heatmap.src = `data:image/jpeg;base64,${answer.heatmap}`;
    heatmap.alt = `${name}, in colour where most speaks for ${best.label}`;
    heatmap.nextElementSibling.textContent = `yellow: what speaks most for ${best.label}`;
  } else {
    heatmap.parentElement.remove();
  }
  const [seen, unseen] = made.querySelectorAll("tbody");
  seen.append(...[best, ...others.slice(0, SHOWN - 1)].map(row));
  const rest = others.slice(SHOWN - 1);
  if (rest.length) {
    unseen.append(...rest.map(row));
    made.querySelector("summary").textContent = rest.length === 1 ? "1 more class" : `${rest.length} more classes`;
    made.querySelector("details").hidden = false;
  }
  return made;
}

function refusal(name, reason) {
  const made = copy("refusal");
  made.querySelector("h3").textContent = name;
  made.querySelector("p").textContent = reason;
  return made;
}

/** Answers photos one after another: nobody's queue is filled by one page. */
async function add(files) {
  waiting.push(...files);
  if (working) return;
  working = true;
  while (waiting.length) {
    const file = waiting.shift();
    const name = file.name || "pasted photo";
    say(waiting.length ? `Asking about ${name}; ${waiting.length} more to come …` : `Asking about ${name} …`);
    let shown;
    try {
      const answer = await ask(file);
      shown = card(name, answer);
      say(`${name}: ${answer.label}, ${percent(answer.probabilities[0].probability)}`);
    } catch (error) {
      shown = refusal(name, error.message);
      say(`${name}: ${error.message}`);
    }
    get("answers").prepend(shown);
    get("answered").hidden = false;
  }
  working = false;
}

/** Takes what a drop or a paste carries. */
function take(carried) {
  if (carried.files.length) add(carried.files);
  else say("There is no photo in that. Drop or paste photo files.");
}

input.addEventListener("change", () => {
  add(input.files);
  input.value = "";  // so that the same photo can be chosen again
});
document.addEventListener("paste", (event) => take(event.clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  get("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) get("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  get("drop").classList.remove("over");
  take(event.dataTransfer);
});
get("forget").addEventListener("click", () => {
  get("answers").replaceChildren();
  get("answered").hidden = true;
  say("The answers are forgotten.");
  input.focus();
});
get("address").textContent = new URL("predict", location.href).href;

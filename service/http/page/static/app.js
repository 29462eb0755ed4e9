// The page: takes files, asks the server about each, and shows what it says.

import { address, Problem, read, send } from "./api.js";
import { problemBox } from "./answer.js";
import { bundleCards } from "./bundles.js";
import { announce, el, find, percent } from "./dom.js";
import { askForKey, storedKey } from "./key.js";
import { KINDS, kindOf } from "./media.js";
import { resultView } from "./result.js";
import { thumbnail } from "./seen.js";

const LABELS = 10, AT_ONCE = 2;
/** Between two looks at bundles that are being checked, and at ones that are all refused. */
const SOON_MS = 1500, LATER_MS = 15000;
/** A file larger than this is sent a second time, for its pixels, only when somebody wants that. */
const SEE_BYTES = 32e6;
/** Files whose pixels are held at once; those of others are asked for again when they are shown. */
const HELD = 8;
const items = [], chosen = {}, waiting = [], held = [];
let served = { bundles: [], default: {}, ready: false }, running = 0, again;

// --- the server ------------------------------------------------------------------------------

async function look() {
  clearTimeout(again);
  const state = find("#state"), cards = find("#bundles .cards");
  try {
    served = await read("v1/bundles");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    state.textContent = problem.title;
    state.className = "state bad";
    cards.replaceChildren(problemBox(problem, look));
    return;
  }
  const ready = served.bundles.filter((one) => one.state === "ready").length;
  const lost = served.bundles.length > 0 && served.bundles.every((one) => one.state === "refused");
  state.className = served.ready ? "state good" : lost ? "state bad" : "state";
  state.textContent = served.ready ? `${ready} of ${served.bundles.length} bundles ready`
    : lost ? "Every bundle is refused" : "Bundles are being checked";
  cards.replaceChildren(...bundleCards(served));
  find("#key").hidden = !storedKey();
  if (!served.ready) again = setTimeout(look, lost ? LATER_MS : SOON_MS);
}

// --- files -----------------------------------------------------------------------------------

async function take(files) {
  const added = [...files].map(makeItem);
  if (!added.length) return;
  items.push(...added);
  document.body.classList.add("busy");
  find("#files").hidden = items.length < 2;
  show(added[0]);
  for (const item of added) {
    try {
      const kind = await kindOf(item.file);
      if (!items.includes(item)) continue;  // cleared meanwhile
      if (kind) ask(item, { kind });
      else setState(item, "unknown");
    } catch {  // the browser's, of what is no file or was taken away
      item.problem = new Problem({ title: "The file cannot be read.", detail: "A folder cannot be sent: choose the files in it." });
      setState(item, "failed");
      if (isShown(item)) item.view.answer();
    }
  }
}

function makeItem(file) {
  const item = { file, query: {}, state: "waiting", sent: 0 };
  item.view = resultView(item, () => served, {
    ask: (changes) => ask(item, changes),
    see: () => see(item),
    look: (method) => explain(item, method),
    cancel: () => item.abort.abort(new Problem({ title: "Cancelled.", detail: "Nothing was answered." })),
  });
  item.picture = el("img", { alt: "", width: 40, height: 40, src: URL.createObjectURL(file), onerror: (event) => {
    URL.revokeObjectURL(event.target.src);
    event.target.remove();
  } });
  item.word = el("span", { class: "small" });
  item.button = el("button", { type: "button", onclick: () => show(item) },
    el("span", { class: "thumb", "data-ending": file.name.split(".").pop().slice(0, 4) }, item.picture), el("span", {}, el("b", {}, file.name), item.word));
  find("#files ul").append(el("li", {}, item.button));
  return item;
}

function show(item) {
  for (const one of items) one.button.setAttribute("aria-current", one === item);
  for (const part of ["controls", "status", "seen", "answer"]) item.view[part]();
  find("#result").replaceChildren(item.view.root);
  item.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (item.prepared) hold(item);
  else if (item.answer && !item.seeing && !item.unseen && item.file.size <= SEE_BYTES) see(item);
}

/** Keep the pixels of this file, and let those go that were not shown for longest. */
function hold(item) {
  if (held.includes(item)) held.splice(held.indexOf(item), 1);
  held.push(item);
  while (held.length > HELD) {
    const [other] = held.splice(held.findIndex((one) => !isShown(one)), 1);
    other.prepared = undefined;
    other.view.seen();
  }
}

/** All files go, and what is held of them. */
function clear() {
  for (const item of items.splice(0)) {
    const { abort } = item;
    item.abort = undefined;  // what still comes is nobody's
    abort?.abort(new Problem({ title: "Cleared.", detail: "" }));
    URL.revokeObjectURL(item.picture.src);
    item.button.parentElement.remove();
  }
  held.length = 0;
  find("#result").replaceChildren();
  find("#files").hidden = true;
  document.body.classList.remove("busy");
  find("#file").focus();
  announce("All files are cleared");
}

const isShown = (item) => item.view.root.isConnected;

function setState(item, state) {
  item.state = state;
  const result = item.answer?.document.results[0], first = result?.predictions?.[0];
  item.word.textContent = {
    waiting: "waiting", sending: `sending, ${percent(item.sent)}`, working: "at work", unknown: "what is it?", failed: "a problem",
    done: result?.embedding ? `${result.embedding.length} features` : first && `${result.abstained ? "not sure enough" : first.label}, ${percent(first.probability)}`,
  }[state];
  if (isShown(item)) item.view.status();
}

// --- asking ----------------------------------------------------------------------------------

/** What is said beside the file: what was chosen for its kind, else what the bundle has first. */
function queryOf(kind, changes) {
  const said = { ...chosen[kind], ...changes };
  const bundle = served.bundles.find((one) => one.name === (said.bundle ?? served.default[kind]) && one.state === "ready");
  if (!bundle) return {};
  const grid = said.grid === "auto" || bundle.grids.some((one) => one.grid === said.grid) ? said.grid : bundle.grids[0].grid;
  const views = bundle.views ? said.views ?? bundle.views : undefined;
  const what = bundle.labels.length ? { top_k: Math.min(LABELS, bundle.labels.length) } : { want: "embedding" };
  return { bundle: bundle.name, grid, ...what, views };
}

function ask(item, { kind = item.kind, ...changes }) {
  const switched = kind !== item.kind;
  item.abort?.abort(new Problem({ title: "Asked anew.", detail: "" }));
  item.kind = kind;
  item.query = queryOf(kind, switched ? changes : { ...item.query, ...changes });
  if (Object.keys(changes).length) chosen[kind] = { bundle: item.query.bundle, grid: item.query.grid, views: item.query.views };
  Object.assign(item, { answer: undefined, problem: undefined, prepared: undefined, unseen: undefined, explained: undefined, sent: 0 });
  if (isShown(item)) {
    if (switched || changes.bundle) item.view.controls();
    item.view.seen();
    item.view.answer();
  }
  setState(item, "waiting");
  const abort = new AbortController();
  item.abort = abort;
  waiting.push(() => answer(item, abort));
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    waiting.shift()().finally(() => {
      running -= 1;
      next();
    });
  }
}

async function answer(item, abort) {
  const url = address(`v1/classify/${item.kind}`, item.query);
  const { signal } = abort;
  try {
    signal.throwIfAborted();
    setState(item, "sending");
    const found = await send(url, item.file, {
      signal,
      onprogress: (share) => {
        item.sent = share;
        setState(item, share < 1 ? "sending" : "working");
      },
    });
    if (item.abort !== abort) return;
    item.answer = found;
    setState(item, "done");
    const { bundle, version } = found.document.results[0];
    if (served.bundles.find((one) => one.name === bundle)?.version !== version) await look();
  } catch (problem) {
    if (item.abort !== abort) return;
    if (!(problem instanceof Problem)) throw problem;
    item.problem = problem;
    setState(item, "failed");
    if (problem.status === 404) look();  // who answers has changed
  }
  if (isShown(item)) item.view.answer();
  if (item.answer || !isShown(item)) announce(`${item.file.name}: ${item.problem?.title ?? item.word.textContent}`);
  if (item.answer && item.file.size <= SEE_BYTES) await see(item);
}

/** The prepared input, for the left half. */
async function see(item) {
  const { abort, query: { top_k, want, ...query } } = item;
  item.seeing = true;
  item.unseen = undefined;
  if (isShown(item)) item.view.seen();
  try {
    const { document } = await send(address(`v1/prepare/${item.kind}`, query), item.file, { signal: abort.signal });
    if (item.abort !== abort) return;
    item.prepared = document;
    hold(item);
    if (!item.picture.isConnected) item.button.firstChild.replaceChildren(thumbnail(document));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (item.abort === abort) item.unseen = problem;
  }
  if (item.abort !== abort) return;
  item.seeing = false;
  if (isShown(item)) item.view.seen();
}

/** Where the model looked: the same question with an explanation. */
async function explain(item, method) {
  const { abort } = item;
  item.explained = { waiting: true, method };
  item.view.seen();
  const found = { method };
  try {
    const url = address(`v1/classify/${item.kind}`, { ...item.query, explain: method });
    found.result = (await send(url, item.file, { signal: abort.signal })).document.results[0];
    announce(`${item.file.name}: where the model looked is shown`);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    found.problem = problem;
  }
  if (item.abort !== abort) return;
  item.explained = found;
  if (isShown(item)) {
    item.view.seen();
    item.view.more();
  }
}

// --- where files come from -------------------------------------------------------------------

function takeChosen() {
  take(find("#file").files);
  find("#file").value = "";
}

find("#file").onchange = takeChosen;
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    take(event.clipboardData.files);
  }
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files);
});
find("#clear").onclick = clear;
find("#key").onclick = async () => {
  if (await askForKey("Another key takes the place of the one of this tab.")) look();
};
find("#main").removeAttribute("aria-busy");
if (find("#file").files.length) takeChosen(); // before this was read
look();

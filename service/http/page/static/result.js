// One file and what became of it: who is asked, how far it is, what the model saw, what it answered.

import { answerer, labels, problemBox, timing } from "./answer.js";
import { bytes, choice, el, percent } from "./dom.js";
import { explanation } from "./explain.js";
import { KINDS } from "./media.js";
import { drawn } from "./seen.js";
import { codeBox } from "./snippets.js";

const MAX_VIEWS = 8;

/**
 * The article of one file; its parts change in place, so that focus and sliders stay.
 * @param actions ask(changes), see(), look(), cancel(): what its controls do.
 */
export function resultView(item, served, actions) {
  const status = el("div", { class: "status" });
  const controls = el("div", { class: "controls" });
  const seen = el("section", { class: "seen" });
  const answer = el("section", { class: "answer" });
  const more = el("div", { class: "more" });
  const title = el("h2", { tabindex: "-1" }, item.file.name);
  const root = el("article", { class: "result" },
    el("div", { class: "head" }, title, el("span", { class: "small" }, bytes(item.file.size))),
    controls, status, el("div", { class: "two" }, answer, seen), more);

  const bundle = () => served().bundles.find((one) => one.name === (item.answer?.document.results[0].bundle ?? item.query.bundle));

  /** New content; focus that was in the old goes to what took its place, or to the title. */
  function fill(part, children) {
    const had = part.contains(document.activeElement) ? document.activeElement : undefined;
    part.replaceChildren(...children);
    if (had) (part.querySelector(had.id ? `#${had.id}` : "input:checked") ?? title).focus({ preventScroll: true });
  }

  return {
    root,
    controls() {
      fill(controls, controlsOf(item, served(), actions.ask));
    },
    status() {
      if (item.state === "sending" && status.dataset.state === "sending") return progressed(status, item.sent);
      status.dataset.state = item.state;
      fill(status, statusOf(item, actions));
    },
    seen() {
      fill(seen, item.answer ? [el("h3", {}, "What the model saw"), ...seenOf(item, bundle(), actions)] : []);
    },
    answer() {
      const parts = [];
      if (item.problem) parts.push(problemBox(item.problem, () => actions.ask({})));
      else if (item.answer) parts.push(el("h3", {}, "Answer"), ...answered(item.answer, bundle()));
      fill(answer, parts);
      this.more();
    },
    more() {
      fill(more, item.answer && !item.problem ? moreOf(item) : []);
    },
  };
}

function seenOf(item, bundle, { see, look }) {
  const grid = bundle?.grids.find((one) => one.grid === item.answer.document.results[0].grid);
  if (item.prepared) return [...drawn(item.kind, item.prepared), ...original(item), ...explanation(item, grid, look)];
  if (item.unseen) return [problemBox(item.unseen, see)];
  if (item.seeing) return [el("p", { class: "waiting" }, "Preparing it")];
  return [el("button", { class: "quiet", type: "button", onclick: see }, "Send it once more to see that")];
}

/** The file as it came, where the browser can show it, and what of it the model saw. */
function original({ kind, picture, file, prepared: { seen } }) {
  if (kind !== "image" || !picture.naturalWidth) return [];
  const size = `${picture.naturalWidth} × ${picture.naturalHeight} pixels`;
  return [el("figure", { class: "original" },
    el("div", { class: "stack" }, el("img", { src: picture.src, alt: `The file ${file.name} as it came` }), seen?.box && frame(seen)),
    el("figcaption", { class: "caption" }, `The file: ${size}${seen?.box ? "; the model saw what is in the frame" : ""}`))];
}

/** What was seen of a picture, as a frame over it. */
function frame({ size, box: [rows, columns] }) {
  const share = ([from, to], side) => [from, to - from].map((one) => `${(100 * one) / side}%`);
  const edge = el("i", { "aria-hidden": "true" });
  [edge.style.insetBlockStart, edge.style.blockSize] = share(rows, size[0]);
  [edge.style.insetInlineStart, edge.style.inlineSize] = share(columns, size[1]);
  return edge;
}

const answered = ({ document: { results: [result] }, total }, bundle) =>
  [labels(result), timing(result, total), answerer(result, bundle)];

const moreOf = (item) => [
  codeBox(item.kind, item.file.name, item.query, item.explained?.result && item.explained.method),
  el("details", { class: "json" }, el("summary", {}, "The answer as JSON"),
    el("pre", { tabindex: "0", role: "region", "aria-label": "The answer as JSON" }, JSON.stringify(item.answer.document, null, 2))),
];

function statusOf(item, { cancel, ask }) {
  if (!item.kind && item.state === "unknown") {
    return [el("div", { class: "question" }, el("h3", {}, "What is it?"),
      el("p", {}, "Neither its name nor its first bytes tell."),
      el("div", { class: "row" }, ...Object.entries(KINDS).map(([kind, name]) =>
        el("button", { class: "quiet", type: "button", onclick: () => ask({ kind }) }, name))))];
  }
  if (!["waiting", "sending", "working"].includes(item.state)) return [];
  const words = { waiting: "Waiting for the files before it", sending: `Sending, ${percent(item.sent)}`, working: "Sent; the model is at work" };
  const bar = item.state === "sending" ? { max: 1, value: item.sent } : {};
  return [el("div", { class: "progress" }, el("progress", { ...bar, "aria-label": "Progress" }),
    el("span", {}, words[item.state]), el("button", { id: "cancel", class: "quiet", type: "button", onclick: cancel }, "Cancel"))];
}

/** In place: whoever presses Cancel must not find another button. */
function progressed(status, share) {
  const [bar, words] = status.firstChild.children;
  bar.value = share;
  words.textContent = `Sending, ${percent(share)}`;
}

function select(label, options, value, onchoose) {
  const id = `${label.toLowerCase()}-of-result`;  // one result is shown at a time
  return el("div", {}, el("label", { for: id }, label),
    el("select", { id, onchange: (event) => onchoose(event.target.value) },
      ...options.map(([name, text]) => el("option", { value: name, selected: name === value }, text))));
}

/** Who is asked: kind, bundle, grid and, of clips, views. */
function controlsOf(item, served, ask) {
  if (!item.kind) return [];
  const bundles = served.bundles.filter((one) => one.modality === item.kind && one.state === "ready");
  const bundle = bundles.find((one) => one.name === item.query.bundle);
  const grids = (bundle?.grids ?? []).map((one) => [one.grid, `${one.grid}: ${one.pixels.join(" × ")} px${one.top1 === null ? "" : `, top 1 ${percent(one.top1)}`}`]);
  return [
    choice("Kind of file", Object.entries(KINDS), item.kind, (kind) => ask({ kind })),
    bundles.length > 1 && select("Bundle", bundles.map((one) => [one.name, `${one.name}, version ${one.version}`]), item.query.bundle,
      (name) => ask({ bundle: name })),
    bundle && select("Grid", [...grids, ["auto", "auto: by the size of the file"]], item.query.grid, (grid) => ask({ grid })),
    bundle?.views && select("Views", Array.from({ length: MAX_VIEWS }, (_, which) => [String(which + 1), String(which + 1)]),
      String(item.query.views), (views) => ask({ views: +views })),
  ].filter(Boolean);
}

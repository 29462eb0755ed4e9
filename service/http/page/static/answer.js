// The right half of a result: ranked labels, who answered and how good they are, where the time went.

import { el, milliseconds, percent } from "./dom.js";

/** The ranked labels of one result; of a bundle without labels how many features there are. */
export function labels(result) {
  if (result.embedding) {
    return el("div", { class: "labels" },
      el("p", { class: "top" }, el("strong", {}, `${result.embedding.length} features`)),
      el("p", { class: "small" }, "This bundle has no labels: what it gives of a file are numbers that another program may compare or learn from. They stand in the JSON below."));
  }
  const [first] = result.predictions;
  const unsure = result.abstained === true;
  return el("div", { class: "labels" },
    el("p", { class: unsure ? "top unsure" : "top" },
      el("strong", {}, unsure ? "Not sure enough" : first.label),
      el("span", {}, percent(first.probability))),
    unsure && el("p", { class: "small" }, `Most probable is ${first.label}, and that is below the threshold for an answer. ${left(result.coverage)}`),
    result.calibrated === false && el("p", { class: "small" }, "These probabilities are not calibrated: they rank the labels and say little about how often the first is right."),
    el("ol", { class: "bars" }, ...result.predictions.map(bar)));
}

/** What a threshold left of the measured files. */
function left(coverage) {
  if (!coverage) return "";
  const right = coverage.accuracy === null ? "" : `, ${percent(coverage.accuracy)} of them right`;
  return `Of the files it was measured on ${percent(coverage.share)} were answered${right}.`;
}

function bar({ label, probability }) {
  const fill = el("i", { "aria-hidden": "true" });
  fill.style.inlineSize = `${Math.max(0.4, 100 * probability)}%`;
  return el("li", {}, el("span", { class: "label" }, label), el("span", { class: "number" }, percent(probability)), fill);
}

const STAGES = { way: "There and back", decode: "Decode", queue: "Wait", inference: "Model" };

/** Where the time of a request went; what the server's stages do not account for is the way. */
export function timing(result, total) {
  const { decode, queue, inference } = result.timing_ms;
  const spent = { way: Math.max(0, total - decode - queue - inference), decode, queue, inference };
  const bars = el("div", { class: "stages", "aria-hidden": "true" });
  for (const stage of Object.keys(STAGES)) {
    const part = el("i", { class: stage });
    part.style.flexGrow = Math.max(spent[stage], total / 200);
    bars.append(part);
  }
  return el("section", { class: "timing" },
    el("h3", {}, "Time ", el("span", { class: "quietly" }, milliseconds(total))),
    bars,
    el("dl", {}, ...Object.entries(STAGES).map(([stage, name]) =>
      el("div", {}, el("dt", { class: stage }, name), el("dd", {}, milliseconds(spent[stage]))))));
}

const interval = (one) =>
  one.low === null || one.low === undefined ? "" : `95 % interval ${percent(one.low)} to ${percent(one.high)}`;

/** What was measured of a grid: [name, value, more] a row. */
export function measured(grid) {
  if (grid.top1 === null) return [];  // there are no labels that could be right
  const figures = grid.figures, rows = [];
  const add = (name, one) => {
    if (one && one.value !== null) rows.push([name, percent(one.value), interval(one)]);
  };
  if (figures) {
    add("Right answers (top 1)", figures.top1);
    add("Among the first five", figures.top5);
    add("Balanced accuracy", figures.balanced_accuracy);
    add("ROC AUC", figures.roc_auc);
  } else rows.push(["Right answers (top 1)", percent(grid.top1), ""]);
  const { calibrated, before, after } = grid.calibration ?? {};
  if (calibrated) rows.push(["Calibration error", percent(after.ece), `before it was calibrated ${percent(before.ece)}`]);
  else if (before) rows.push(["Calibration error", percent(before.ece), "not calibrated"]);
  return rows;
}

/** Rows of ``measured`` as a table. */
export const figuresTable = (grid, caption) =>
  el("table", { class: "figures" }, el("caption", {}, caption),
    el("tbody", {}, ...measured(grid).map(([name, value, more]) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value, more && el("small", {}, more))))));

/** Who answered, and how good they were when they were measured. */
export function answerer(result, bundle) {
  const grid = bundle?.grids.find((one) => one.grid === result.grid);
  const facts = [
    ["Bundle", `${result.bundle}, version ${result.version}`],
    ["Grid", grid ? `${result.grid}, ${grid.pixels.join(" × ")} pixels` : result.grid],
    bundle && ["Runs on", `${bundle.device}, ${bundle.precision}, ${bundle.encoding}`],
  ];
  return el("section", { class: "answerer" },
    el("h3", {}, "Who answered"),
    el("dl", { class: "facts" }, ...facts.filter(Boolean).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    grid && grid.top1 !== null && figuresTable(grid, "Measured at this grid, on files it had never seen"));
}

/** A problem in words; ``again`` asks once more where that may help. */
export function problemBox(problem, again) {
  const passing = [0, 408, 429, 502, 503, 504].includes(problem.status);
  return el("div", { class: "problem", role: "alert" },
    el("h3", {}, problem.title),
    el("p", {}, sentence(problem.detail)),
    problem.retry && el("p", {}, `There should be room in ${problem.retry} s.`),
    again && passing && el("button", { class: "quiet", type: "button", onclick: () => again() }, "Try again"),
    (problem.status || problem.id) && el("p", { class: "small" },
      [problem.status && `Status ${problem.status}`, problem.id && `request ${problem.id}`].filter(Boolean).join(", ")));
}

const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".") : "");

// The bundles of this server, with what was measured of them and what they say of themselves.

import { read } from "./api.js";
import { measured, problemBox } from "./answer.js";
import { el, percent } from "./dom.js";
import { markdown } from "./markdown.js";
import { KINDS } from "./media.js";

const SHOWN_LABELS = 24;

function gridRow(grid, which) {
  const [[, top1, interval] = [null, "\u2013"]] = measured(grid), ece = grid.calibration?.after?.ece ?? grid.calibration?.before?.ece;
  return el("tr", {},
    el("th", { scope: "row" }, grid.grid, which === 0 && el("small", {}, "first")),
    el("td", {}, grid.pixels.join(" × ")),
    el("td", {}, top1, interval && el("small", {}, interval.replace("95 % interval ", ""))),
    el("td", {}, ece === undefined ? "\u2013" : percent(ece)));
}

const grids = (bundle) =>
  el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Grids of ${bundle.name}` },
    el("table", {},
      el("thead", {}, el("tr", {}, ...["Grid", "Pixels", "Top 1", el("abbr", { title: "expected calibration error" }, "ECE")]
        .map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...bundle.grids.map(gridRow))));

function card(bundle) {
  const text = el("div", { class: "card-text" }, el("p", {}, "Reading the card"));
  return el("details", {
    ontoggle: async (event) => {
      if (!event.target.open || text.dataset.read) return;
      text.dataset.read = "yes";
      try {
        const parts = markdown(await read(`v1/bundles/${encodeURIComponent(bundle.name)}/card`));
        text.replaceChildren(...(parts[0]?.textContent === bundle.name ? parts.slice(1) : parts));
      } catch (problem) {
        delete text.dataset.read;
        text.replaceChildren(problemBox(problem));
      }
    },
  }, el("summary", {}, "Card: data, licence, limits"), text);
}

function about(bundle) {
  const more = bundle.labels.length - SHOWN_LABELS;
  return [
    el("p", { class: "small" },
      [`version ${bundle.version}`, bundle.encoding, bundle.precision, bundle.device].join(" · ")),
    el("p", { class: "words" }, bundle.labels.length
      ? bundle.labels.slice(0, SHOWN_LABELS).join(", ") + (more > 0 ? ` and ${more} more` : "")
      : "No labels: its answer is the features of a file (want=embedding)."),
    grids(bundle), card(bundle),
  ];
}

/** One article a bundle. */
export const bundleCards = (served) =>
  served.bundles.map((bundle) =>
    el("article", { class: `card ${bundle.state}` },
      el("h3", {}, bundle.name, el("span", { class: "chip" }, KINDS[bundle.modality] ?? "Unknown"),
        served.default[bundle.modality] === bundle.name && el("span", { class: "chip" }, "default"),
        bundle.state === "refused" && el("span", { class: "chip bad" }, "refused")),
      ...(bundle.state === "ready"
        ? about(bundle)
        : [el("p", {}, `It is not served: ${bundle.reason}.`)])));

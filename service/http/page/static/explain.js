// Where the model looked, drawn by the server: what hiding each part of the file took from the answer, or what attention carried.

import { problemBox } from "./answer.js";
import { read } from "./api.js";
import { el, percent } from "./dom.js";

let kinds;

/** Which kinds this server explains, as its OpenAPI document says; asked once. */
function explained() {
  kinds ??= read("openapi.json").then(
    ({ paths }) => ["image", "video", "volume"].filter((kind) =>
      paths[`/v1/classify/${kind}`]?.post.parameters.some((one) => one.name === "explain")),
    () => {
      kinds = undefined; // asked again for the next answer
      return [];
    },
  );
  return kinds;
}

const about = { height: "down", width: "across", depth: "along the body", time: "in time" };

/** Of each method: its button, what is said while it works, and what colours mean. */
const methods = {
  occlusion: {
    ask: "Where the model looked", waiting: "Hiding one part after the other",
    colours: ({ label }) => [`spoke for ${label}`, "spoke against it"],
    what: ({ label }) => `which parts counted for ${label}`,
  },
  attention: {
    ask: "Where attention went", waiting: "Following attention",
    colours: () => ["more than the mean of all patches", "less"],
    what: () => "which patches attention carried into the answer",
  },
};

/** The strongest part in words: from where to where along each axis. */
function peak({ method, peak: strongest, axes, share }) {
  if (!strongest || !axes) return undefined;
  if (method === "occlusion" && strongest.value <= 0) return el("p", { class: "small" }, "No part spoke for it: hiding any of them helped, or changed nothing.");
  const where = axes.map(({ name, unit }) => {
    const [from, to] = strongest.where[name].map((one) => one.toFixed(unit === "s" ? 2 : 0));
    return `${from} to ${to} ${unit} ${about[name]}`;
  });
  if (method === "occlusion") return el("p", { class: "small" }, `It counted most at ${where.join(", ")}.`);
  return el("p", { class: "small" },
    `${strongest.value.toFixed(1)} times an even share came from ${where.join(", ")}; from all of the file ${percent(share)}.`);
}

function shown(explanation, { kind, picture }) {
  const map = el("img", {
    src: `data:image/png;base64,${explanation.overlay}`,
    alt: `Map over what the model saw: ${methods[explanation.method].what(explanation)}`,
  });
  const [more, less] = methods[explanation.method].colours(explanation);
  const under = kind === "image" && picture.naturalWidth > 0 && el("img", { src: picture.src, alt: "" });
  return [
    el("h3", {}, "Where it looked"),
    el("div", { class: under ? "overlay stack" : "overlay" }, under, map),
    el("p", { class: "legend" }, el("span", { class: "for" }, more), el("span", { class: "against" }, less)),
    peak(explanation),
  ];
}

/** What came of a button, and the buttons.
    grid: what is told of the one that answered; look: asks the same again, explained by a method. */
export function explanation(item, grid, look) {
  const { explained: found } = item;
  const part = el("div", { class: "explanation" });
  if (found?.waiting) {
    part.append(el("p", { class: "waiting", role: "status" }, methods[found.method].waiting));
    return [part];
  }
  if (found?.result?.explanation) part.append(...shown(found.result.explanation, item).filter(Boolean));
  else if (found?.problem) part.append(problemBox(found.problem, () => look(found.method)));
  if (item.answer && !item.query.want) {  // features have no label that could be explained
    const others = (grid?.explain ?? ["occlusion"]).filter((method) => method in methods && method !== found?.method);
    explained().then((known) => {
      if (known.includes(item.kind)) part.append(...others.map((method) =>
        el("button", { class: "quiet", type: "button", onclick: () => look(method) }, methods[method].ask)));
    });
  }
  return [part];
}

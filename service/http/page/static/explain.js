// Where the model looked: what hiding each part of the file took from the answer, drawn by the server.

import { problemBox } from "./answer.js";
import { read } from "./api.js";
import { el } from "./dom.js";

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

/** The strongest part in words: from where to where along each axis. */
function peak({ peak: strongest, axes }) {
  if (!strongest || !axes) return undefined;
  if (strongest.value <= 0) return el("p", { class: "small" }, "No part spoke for it: hiding any of them helped, or changed nothing.");
  const where = axes.map(({ name, unit }) => {
    const [from, to] = strongest.where[name].map((one) => one.toFixed(unit === "s" ? 2 : 0));
    return `${from} to ${to} ${unit} ${about[name]}`;
  });
  return el("p", { class: "small" }, `It counted most at ${where.join(", ")}.`);
}

function shown(explanation, { kind, picture }) {
  const map = el("img", {
    src: `data:image/png;base64,${explanation.overlay}`,
    alt: `Map over what the model saw: which parts counted for ${explanation.label}`,
  });
  const under = kind === "image" && picture.naturalWidth > 0 && el("img", { src: picture.src, alt: "" });
  return [
    el("h3", {}, "Where it looked"),
    el("div", { class: under ? "overlay stack" : "overlay" }, under, map),
    el("p", { class: "legend" },
      el("span", { class: "for" }, `spoke for ${explanation.label}`), el("span", { class: "against" }, "spoke against it")),
    peak(explanation),
  ];
}

/** The button, or what came of it. */
export function explanation(item, look) {
  const { explained: found } = item;
  const part = el("div", { class: "explanation" });
  if (found?.result?.explanation) part.append(...shown(found.result.explanation, item).filter(Boolean));
  else if (found?.problem) part.append(problemBox(found.problem, look));
  else if (found?.waiting) part.append(el("p", { class: "waiting", role: "status" }, "Hiding one part after the other"));
  else if (item.answer && !item.query.want) {  // features have no label that could be explained
    explained().then((known) => {
      if (known.includes(item.kind)) part.append(el("button", { class: "quiet", type: "button", onclick: look }, "Where the model looked"));
    });
  }
  return [part];
}

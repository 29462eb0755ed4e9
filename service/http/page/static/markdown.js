// The cards of bundles: the part of Markdown that they are written in, as elements and never as HTML.

import { el } from "./dom.js";

const INLINE = /(\*\*(.+?)\*\*|`([^`]+)`|\[([^\]]+)\]\((https?:[^)\s]+)\))/;

function inline(text) {
  const match = INLINE.exec(text);
  if (!match) return [text];
  const [whole, , bold, code, words, url] = match;
  const node = bold ? el("strong", {}, ...inline(bold))
    : code ? el("code", {}, code)
    : el("a", { href: url, rel: "noopener noreferrer", target: "_blank" }, words);
  return [text.slice(0, match.index), node, ...inline(text.slice(match.index + whole.length))];
}

const cells = (line) => line.replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function table([head, , ...rows]) {
  const row = (tag) => (line) => el("tr", {}, ...cells(line).map((cell) => el(tag, tag === "th" ? { scope: "col" } : {}, ...inline(cell))));
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table of the card" },
    el("table", {}, el("thead", {}, row("th")(head)), el("tbody", {}, ...rows.map(row("td")))));
}

/** Blocks apart by empty lines -> elements; headings become those below h3. */
export function markdown(text) {
  return text.split(/\n\s*\n/).filter((block) => block.trim()).map((block) => {
    const lines = block.trim().split("\n"), heading = /^(#+) (.*)/.exec(lines[0]);
    if (heading && lines.length === 1) return el(heading[1].length > 2 ? "h5" : "h4", {}, ...inline(heading[2]));
    if (lines.length > 2 && lines.every((line) => line.startsWith("|"))) return table(lines);
    if (lines.every((line) => /^[-*] /.test(line))) return el("ul", {}, ...lines.map((line) => el("li", {}, ...inline(line.slice(2)))));
    return el("p", {}, ...inline(lines.join(" ")));
  });
}

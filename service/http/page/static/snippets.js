// The same request without this page: curl and Python, to copy.

import { address, base } from "./api.js";
import { announce, choice, el } from "./dom.js";
import { kindOfName } from "./media.js";
import { storedKey } from "./key.js";

const shell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const python = (value) => (typeof value === "number" ? String(value) : JSON.stringify(value));
const said = (query) => Object.entries(query).filter(([, value]) => value !== undefined && value !== "");

function curl(path, name, query) {
  const key = storedKey() ? ' -H "Authorization: Bearer $LIERE_KEY"' : "";
  const file = shell(`@${name}`);
  return `curl${key} --data-binary ${file} ${shell(address(path, query).href)}`;
}

/** With the client of docs/client.md: a call, and what is done with what comes back. */
function withClient(call, kind, name, query, { imports = [], result, then }) {
  const key = storedKey();
  const options = said({ modality: kindOfName(name) === kind ? undefined : kind, ...query });
  const args = [python(name), ...options.map(([option, value]) => `${option}=${python(value)}`)].join(", ");
  return [
    ...(key ? ["import os", ""] : []), ...imports.flatMap((line) => [line, ""]), "from client import Client", "",
    `with Client(${python(base.href.replace(/\/$/, ""))}${key ? ', key=os.environ["LIERE_KEY"]' : ""}) as client:`,
    `    ${result[0]} = client.${call}(${args})${result[1] ?? ""}`, ...then.map((line) => `    ${line}`),
  ].join("\n");
}

const READ_ANSWER = {
  result: ["result"],
  then: ["for one in result.predictions:", '    print(f"{one.label}: {one.probability:.1%}")'],
};
const READ_FEATURES = {
  result: ["features", ".embedding"],
  then: ["print(len(features), features[:8])"],
};
const READ_PIXELS = {
  imports: ["import numpy as np"],
  result: ["pixels", ".pixels"],
  then: ["array = np.frombuffer(pixels.data, pixels.dtype).reshape(pixels.shape)", "print(array.shape, array.dtype)"],
};
const READ_MAP = {
  imports: ["from pathlib import Path"],
  result: ["explanation", ".explanation"],
  then: ['Path("overlay.png").write_bytes(explanation.overlay)', "print(explanation.peak.value, explanation.peak.where)"],
};

/** Texts by what was asked for and by language. */
function snippets(kind, name, query, method) {
  const { top_k, want, ...prepared } = query, explained = { ...query, explain: method };
  const paths = [`v1/classify/${kind}`, `v1/prepare/${kind}`];
  return {
    answer: { curl: curl(paths[0], name, query), python: withClient("classify", kind, name, query, want ? READ_FEATURES : READ_ANSWER) },
    input: { curl: curl(paths[1], name, prepared), python: withClient("prepare", kind, name, prepared, READ_PIXELS) },
    map: { curl: curl(paths[0], name, explained), python: withClient("classify", kind, name, explained, READ_MAP) },
  };
}

/** They on the page; of the explanation by a method where one was asked for. */
export function codeBox(kind, name, query, method) {
  const texts = snippets(kind, name, query, method), asked = { what: "answer", how: "curl" };
  const code = el("code"), button = el("button", { class: "quiet", type: "button", onclick: copy }, "Copy");
  const show = () => { code.textContent = texts[asked.what][asked.how]; };

  async function copy() {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {  // without TLS browsers have no clipboard: select it, Ctrl+C does the rest
      getSelection().selectAllChildren(code);
      button.textContent = "Press Ctrl+C";
    }
    announce(button.textContent);
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }

  show();
  return el("section", { class: "code" },
    el("h3", {}, "The same from a program"),
    el("div", { class: "row" },
      choice("What is asked for", [["answer", "Answer"], ["input", "What it saw"], ...(method ? [["map", "Where it looked"]] : [])], "answer", (what) => { asked.what = what; show(); }),
      choice("Language", [["curl", "curl"], ["python", "Python"]], "curl", (how) => { asked.how = how; show(); }),
      button),
    el("pre", { tabindex: "0", role: "region", "aria-label": "The request as code" }, code));
}

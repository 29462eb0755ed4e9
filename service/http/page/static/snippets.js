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

/** With the client of docs/client.md. */
function classify(kind, name, query) {
  const key = storedKey();
  const options = said({ modality: kindOfName(name) === kind ? undefined : kind, ...query });
  const args = [python(name), ...options.map(([option, value]) => `${option}=${python(value)}`)].join(", ");
  return [
    key && "import os\n", "from client import Client", "",
    `with Client(${python(base.href.replace(/\/$/, ""))}${key ? ', key=os.environ["LIERE_KEY"]' : ""}) as client:`,
    `    result = client.classify(${args})`,
    "    for one in result.predictions:",
    '        print(f"{one.label}: {one.probability:.1%}")',
  ].filter((line) => line !== null).join("\n");
}

/** With the standard library: what the answer is read by comes after. */
function plainly(path, name, query, ...reading) {
  const key = storedKey();
  return [
    `import base64, json, ${key ? "os, " : ""}pathlib, urllib.request`, "",
    `file = pathlib.Path(${python(name)}).read_bytes()`,
    `url = ${python(address(path, query).href)}`,
    `request = urllib.request.Request(url, file${key ? ', {"Authorization": f"Bearer {os.environ[\'LIERE_KEY\']}"}' : ""})`,
    "answer = json.load(urllib.request.urlopen(request))",
    ...reading,
  ].join("\n");
}

const READ_PIXELS = [
  "", "import numpy as np", "", 'pixels = answer["pixels"]',
  'array = np.frombuffer(base64.b64decode(pixels["data"]), pixels["dtype"]).reshape(pixels["shape"])',
  "print(array.shape, array.dtype)",
];
const READ_MAP = [
  'explanation = answer["results"][0]["explanation"]',
  'pathlib.Path("overlay.png").write_bytes(base64.b64decode(explanation["overlay"]))',
  'print(explanation["label"], explanation["peak"]["where"])',
];

/** Texts by what was asked for and by language. */
function snippets(kind, name, query) {
  const { top_k, ...prepared } = query, explained = { ...query, explain: "occlusion" };
  const paths = [`v1/classify/${kind}`, `v1/prepare/${kind}`];
  return {
    answer: { curl: curl(paths[0], name, query), python: classify(kind, name, query) },
    input: { curl: curl(paths[1], name, prepared), python: plainly(paths[1], name, prepared, ...READ_PIXELS) },
    map: { curl: curl(paths[0], name, explained), python: plainly(paths[0], name, explained, ...READ_MAP) },
  };
}

/** They on the page; of the explanation where one was asked for. */
export function codeBox(kind, name, query, isExplained) {
  const texts = snippets(kind, name, query), asked = { what: "answer", how: "curl" };
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
      choice("What is asked for", [["answer", "Answer"], ["input", "What it saw"], ...(isExplained ? [["map", "Where it looked"]] : [])], "answer", (what) => { asked.what = what; show(); }),
      choice("Language", [["curl", "curl"], ["python", "Python"]], "curl", (how) => { asked.how = how; show(); }),
      button),
    el("pre", { tabindex: "0", role: "region", "aria-label": "The request as code" }, code));
}

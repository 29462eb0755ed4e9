// The page is painted first, and what makes it work comes after: reading the modules takes as long as
// the picture of the page. They are asked for at once, not one because of another.
const MODULES = [
  "app", "api", "answer", "bundles", "dom", "explain",
  "key", "markdown", "media", "result", "seen", "snippets",
];

function begin() {
  for (const name of MODULES) {
    const link = document.createElement("link");
    link.rel = "modulepreload";
    link.href = new URL(`./${name}.js`, here);
    document.head.append(link);
  }
  import("./app.js");
}

const here = document.currentScript.src;
if (document.hidden) begin(); // nothing is painted there
else requestAnimationFrame(() => setTimeout(begin));

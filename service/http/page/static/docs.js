// Swagger UI over this server's own OpenAPI document, with the key of this tab.

import { Problem, read } from "./api.js";
import { problemBox } from "./answer.js";
import { find } from "./dom.js";
import { askForKey, storedKey } from "./key.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);

async function show() {
  try {
    const spec = await read("openapi.json");
    find("#key").hidden = !storedKey();
    find("#said").replaceChildren();
    SwaggerUIBundle({
      spec,
      domNode: find("#api"),
      deepLinking: true,
      validatorUrl: null,
      requestInterceptor(request) {
        if (storedKey()) request.headers.Authorization ??= `Bearer ${storedKey()}`;
        return request;
      },
    });
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    find("#said").replaceChildren(problemBox(problem, show));
  }
}

find("#key").onclick = async () => {
  if (await askForKey("Another key takes the place of the one of this tab.")) show();
};
dark.addEventListener("change", paint);
paint();
show();

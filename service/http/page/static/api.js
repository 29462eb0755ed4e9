// Asking the server: addresses, the key, problems, uploads with progress.

import { askForKey, forgetKey, storedKey } from "./key.js";

/** Of everything the page asks for: also below a path that a proxy puts before it. */
export const base = new URL(".", location.href);

/** What went wrong, in the words of the server: the members of its problem document. */
export class Problem extends Error {
  constructor({ title, detail, status = 0, type, id, retry }) {
    super(title);
    Object.assign(this, { title, detail, status, type, id, retry });
  }
}

const AWAY = { title: "The server does not answer.", detail: "The connection failed or was closed. Is it still running?" };

/** @param document the problem document; null where what came is none. */
function problemOf(status, document, retry) {
  if (document?.title) return new Problem({ ...document, status, retry });
  return new Problem({ title: "The answer cannot be read.", detail: `Something on the way said ${status} and no reason.`, status });
}

const authorization = () => (storedKey() ? { Authorization: `Bearer ${storedKey()}` } : {});

/** Try with the key that is there; where it is none, or an old one, ask for another and try again. */
async function withKey(attempt) {
  for (;;) {
    const key = storedKey();
    try {
      return await attempt();
    } catch (problem) {
      if (problem.status !== 401) throw problem;
      if (storedKey() && storedKey() !== key) continue;  // another request has asked meanwhile
      const why = key
        ? "The server does not know the key of this tab (any more). Enter another one."
        : "Whoever runs it gives keys out.";
      forgetKey();
      if (!(await askForKey(why))) throw problem;
    }
  }
}

/** GET: a JSON document, or text. */
export function read(path) {
  return withKey(async () => {
    let response;
    try {
      response = await fetch(new URL(path, base), { headers: authorization() });
    } catch {
      throw new Problem(AWAY);
    }
    const isJson = response.headers.get("content-type")?.includes("json");
    const document = isJson ? await response.json() : await response.text();
    if (!response.ok) throw problemOf(response.status, isJson ? document : null);
    return document;
  });
}

/** The address of a request, with what it says besides its file. */
export function address(path, query) {
  const url = new URL(path, base);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

/**
 * POST a file as it is.
 * @param onprogress told the share that is sent, 0 to 1.
 * @returns document, and total: milliseconds.
 */
export const send = (url, file, { signal, onprogress }) =>
  withKey(() => new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    const began = performance.now();
    request.open("POST", url);
    request.responseType = "json";
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => onprogress?.(event.loaded / event.total);
    request.upload.onload = () => onprogress?.(1);
    request.onload = () => {
      const total = performance.now() - began;
      const { status, response: document } = request;
      if (status === 200 && document) resolve({ document, total });
      else reject(problemOf(status, document, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new Problem(AWAY));
    request.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  }));

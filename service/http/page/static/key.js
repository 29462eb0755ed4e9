// The key of this tab: asked for in a dialog, kept in sessionStorage and nowhere else.

import { find } from "./dom.js";

const NAME = "liere-key";
let asking;

export const storedKey = () => sessionStorage.getItem(NAME);
export const forgetKey = () => sessionStorage.removeItem(NAME);

/** Whether a key was given; whoever asks meanwhile waits for the same answer. */
export function askForKey(why) {
  asking ??= show(why).finally(() => { asking = undefined; });
  return asking;
}

function show(why) {
  const dialog = find("#ask"), secret = find("#secret");
  find("#ask-why").textContent = why;
  find("#key")?.removeAttribute("hidden");
  secret.value = "";
  dialog.showModal();
  secret.focus();
  return new Promise((resolve) => {
    let given = false;
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      const key = secret.value.trim();
      // What no header can carry is no key; the server would not see it.
      given = /^[\x21-\x7e]+$/.test(key);
      secret.setCustomValidity(given ? "" : "A key has letters, digits and signs, without spaces.");
      if (!given) return secret.reportValidity();
      sessionStorage.setItem(NAME, key);
      dialog.close();
    };
    secret.oninput = () => secret.setCustomValidity("");
    dialog.querySelector("[value=cancel]").onclick = () => dialog.close();
    dialog.onclose = () => {
      secret.value = "";
      resolve(given);
    };
  });
}

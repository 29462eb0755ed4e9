// Elements, numbers in words, and what a screen reader is told.

/** An element; names that begin with "on" are listeners, false and undefined are left out. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

export const find = (selector) => document.querySelector(selector);

/** Tell whoever cannot see it. */
export function announce(text) {
  find("#live").textContent = text;
}

const share = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
/** 0.3773 -> "37.7 %" */
export const percent = (value) => share.format(value).replace("%", "\u202f%");

export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10000 ? 0 : 1)}\u202fs`;
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(1)}\u202fms`;
}

export function bytes(value) {
  if (value < 1000) return `${value} bytes`;
  const power = Math.min(3, Math.floor(Math.log10(value) / 3));
  const number = value / 1000 ** power;
  return `${number.toFixed(number < 10 ? 1 : 0)}\u202f${["", "kB", "MB", "GB"][power]}`;
}

/** A choice of a few: a group of radio buttons that look like one control. */
export function choice(legend, options, selected, onchoose) {
  const name = `choice-${(choice.count = (choice.count ?? 0) + 1)}`;
  return el(
    "fieldset", { class: "choice" }, el("legend", { class: "unseen" }, legend),
    ...options.map(([value, text]) =>
      el("label", {},
        el("input", { type: "radio", name, value, checked: value === selected, onchange: () => onchoose(value) }),
        el("span", {}, text))),
  );
}

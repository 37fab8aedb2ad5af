// The page is built from elements and text, never from markup: what a document or an answer says stays text.

/**
 * Makes an element. Attributes that are `undefined` or `false` are left out, functions become listeners of the event
 * they are named after; children are elements, strings (text), lists of them, or nothing.
 *
 * @example element("button", { class: "button", click: send }, "Send")
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return made;
}

/** Prose in which `backticks` mark code. */
export const prose = (text) => text.split("`").map((part, i) => (i % 2 === 1 ? element("code", {}, part) : part));

const jsonToken = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
/** Colours for a long answer would cost more than they are worth. */
const maxColoured = 100_000;

/** JSON text with its keys, strings and other values set apart by colour. */
export function colourJson(text) {
  if (text.length > maxColoured) return [text];
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(jsonToken)) {
    const [whole, string, colon = ""] = match;
    parts.push(text.slice(end, match.index));
    const kind = string === undefined ? "json-value" : colon === "" ? "json-string" : "json-key";
    parts.push(element("span", { class: kind }, string ?? whole), colon);
    end = match.index + whole.length;
  }
  return [...parts, text.slice(end)];
}

/** Copies text, also where the page came over plain HTTP and the browser has no clipboard for it. */
export async function copyText(text) {
  if (navigator.clipboard !== undefined) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not allowed: the older way below
    }
  }
  const field = element("textarea", { class: "offscreen", readonly: true, "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  return isCopied;
}

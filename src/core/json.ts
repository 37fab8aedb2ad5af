/** Deeper nesting than any message or body has a use for; `JSON.parse` itself takes a hundred thousand levels. */
const maxDepth = 32;

/**
 * The value of a JSON text, or `undefined` where it is none or nests deeper than 32 levels.
 * JSON has no `undefined`, so nothing else can be meant by it. `1e999` parses to Infinity: numbers are checked by whoever takes them.
 */
export function parseJson(text: string): unknown {
  if (hasManyBrackets(text) && nestsTooDeep(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // a syntax error is the answer, not a fault
  }
}

/** Most texts have a few, which is found out faster than how they are nested. */
function hasManyBrackets(text: string): boolean {
  let count = 0;
  for (const bracket of ["{", "["]) {
    for (let at = text.indexOf(bracket); at !== -1; at = text.indexOf(bracket, at + 1)) {
      if (++count > maxDepth) return true;
    }
  }
  return false;
}

/** Counts brackets outside of strings, before anything is built from them. */
function nestsTooDeep(text: string): boolean {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (inString) {
      if (code === 0x5c) i++;
      else if (code === 0x22) inString = false;
    } else if (code === 0x22) inString = true;
    else if (code === 0x7b || code === 0x5b) {
      if (++depth > maxDepth) return true;
    } else if (code === 0x7d || code === 0x5d) depth--;
  }
  return false;
}

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseJson } from "../../src/core/json.ts";

const nest = (open: string, inner: string, close: string, depth: number): string =>
  open.repeat(depth) + inner + close.repeat(depth);

const parseAsJavaScript = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** Levels of arrays and objects in a value. */
const depthOf = (value: unknown): number =>
  typeof value === "object" && value !== null ? 1 + Math.max(0, ...Object.values(value).map(depthOf)) : 0;

describe("parseJson", () => {
  test.each([
    ["arrays", "[", "]"],
    ["objects", '{"a":', "}"],
    ["both", '[{"a":', "}]"],
  ])("takes 32 levels of %s and no more", (_, open, close) => {
    const levels = open.length > 5 ? 16 : 32;
    expect(depthOf(parseJson(nest(open, "0", close, levels)))).toBe(32);
    expect(parseJson(nest(open, "0", close, levels + 1))).toBeUndefined();
    expect(parseJson(nest(open, "[]", close, levels))).toBeUndefined();
  });

  test("takes any number of brackets side by side", () => {
    expect(parseJson(`[${Array(1_000).fill("[]").join(",")}]`)).toHaveLength(1_000);
  });

  test("a hundred thousand levels are refused, not climbed", () => {
    expect(parseJson(nest("[", "", "]", 100_000))).toBeUndefined();
    expect(parseJson("[".repeat(1_000_000))).toBeUndefined();
  });

  test.each([
    ["brackets in a string", "[".repeat(100)],
    ["an escaped quote before brackets", `"${"[".repeat(100)}`],
    ["an escaped backslash at the end of a string", "\\"],
    ["backslashes and quotes in turn", '\\"\\\\"[{'.repeat(40)],
  ])("counts no %s", (_, text) => {
    expect(parseJson(JSON.stringify({ [text]: text }))).toEqual({ [text]: text });
  });

  test("counts brackets again after a string that ends in an escaped backslash", () => {
    expect(parseJson(`["\\\\",${nest("[", "", "]", 31)}]`)).toBeDefined();
    expect(parseJson(`["\\\\",${nest("[", "", "]", 32)}]`)).toBeUndefined();
    expect(parseJson(`["\\u0022",${nest("[", "", "]", 32)}]`)).toBeUndefined();
  });

  test.each([
    "",
    " ",
    "{",
    "]",
    "'a'",
    "{a:1}",
    "[1,]",
    '{"a":1,}',
    "01",
    "+1",
    ".5",
    "NaN",
    "Infinity",
    "undefined",
    '"a\nb"',
    '"\\x"',
    "\ufeff{}",
    "1 2",
    "// comment\n1",
  ])("%j is no JSON", (text) => {
    expect(parseJson(text)).toBeUndefined();
  });

  test("gives a key called __proto__ as a key, and touches no prototype", () => {
    const value = parseJson('{"__proto__":{"polluted":true}}') as object;
    expect(Object.getOwnPropertyNames(value)).toEqual(["__proto__"]);
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });

  test("agrees with JSON.parse on every value that nests no deeper", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 31 }), fc.constantFrom(undefined, 2, "\t"), (value, space) => {
        const text = JSON.stringify(value, undefined, space);
        expect(parseJson(text)).toEqual(JSON.parse(text));
      }),
    );
  });

  test("agrees with JSON.parse on what is made of JSON's own characters, whether it is JSON or not", () => {
    const pieces = fc.constantFrom(
      "[",
      "]",
      "{",
      "}",
      '"',
      "\\",
      ",",
      ":",
      "1",
      "-",
      "e",
      "true",
      "null",
      " ",
      '"a"',
      "\\u005b",
    );
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 30 }), (parts) => {
        const text = parts.join("");
        expect(parseJson(text)).toEqual(parseAsJavaScript(text));
      }),
      { numRuns: 1_000 },
    );
  });

  test("says of every value by its depth alone whether it is taken", () => {
    const deep = fc.tuple(fc.integer({ min: 25, max: 40 }), fc.jsonValue({ maxDepth: 4 }), fc.boolean());
    fc.assert(
      fc.property(deep, ([levels, inner, isArray]) => {
        const text = nest(isArray ? "[" : '{"[{":', JSON.stringify(inner), isArray ? "]" : "}", levels);
        expect(parseJson(text) !== undefined).toBe(levels + depthOf(inner) <= 32);
      }),
    );
  });
});

import * as fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import { createLog, logLevels, type Log, type LogLevel } from "../src/log.ts";

let lines: string[];
let at: number;
let log: Log;
beforeEach(() => {
  lines = [];
  at = Date.UTC(2026, 0, 14, 10);
  log = open("debug");
});
const open = (level: LogLevel): Log => createLog({ level, write: (line) => void lines.push(line), now: () => at });

/** What the log makes of one field. */
function format(value: unknown, key = "field"): string {
  lines = [];
  log.info("m", { [key]: value });
  return lines[0]?.slice(`2026-01-14T10:00:00.000Z info  m ${key}=`.length, -1) ?? "";
}

test("a line has time, level, message and fields", () => {
  log.info("started", { port: 1883, path: "/var/lib/lambdaiot.db", note: "two words", none: undefined, empty: null });
  log.error("failed", { error: new TypeError("no such thing") });
  expect(lines).toEqual([
    '2026-01-14T10:00:00.000Z info  started port=1883 path=/var/lib/lambdaiot.db note="two words" empty=null\n',
    '2026-01-14T10:00:00.000Z error failed error="no such thing"\n',
  ]);
});

test.each(logLevels)("at level %s, nothing below it is written", (level) => {
  const leveled = open(level);
  for (const each of logLevels) leveled[each]("message");
  leveled.sampled("key", "message");
  const kept = logLevels.slice(logLevels.indexOf(level));
  expect(lines.map((line) => line.split(/ +/)[1])).toEqual([...kept, ...(level === "error" ? [] : ["warn"])]);
});

describe("what stands in a field", () => {
  test.each([
    ["a line end", "a\nb", String.raw`"a\nb"`],
    ["a forged line", "x\n2026-01-14T10:00:00.000Z error gone", String.raw`"x\n2026-01-14T10:00:00.000Z error gone"`],
    ["a terminal's command", "\u001b[31mred", String.raw`"\u001b[31mred"`],
    ["NUL", "a\0b", String.raw`"a\u0000b"`],
    ["DEL", "a\u007fb", String.raw`"a\u007fb"`],
    ["a command in one character", "\u009b31mred", String.raw`"\u009b31mred"`],
    ["a Unicode line end", "a\u2028b\u2029c\u0085d", String.raw`"a\u2028b\u2029c\u0085d"`],
    ["a quote", 'say "yes"', String.raw`"say \"yes\""`],
    ["a forged field", "1 admin=true", '"1 admin=true"'],
    ["half a character", "\ud83d", String.raw`"\ud83d"`],
    ["nothing", "", '""'],
    ["a letter beyond ASCII", "Žiga", '"Žiga"'],
  ])("%s is quoted", (_, value, shown) => {
    expect(format(value)).toBe(shown);
  });

  test("is one line of printable characters, and can be read back", () => {
    const text = fc.oneof(
      fc.string({ unit: "binary", maxLength: 200 }),
      fc.string({ unit: fc.integer({ min: 0, max: 0xa0 }).map((code) => String.fromCharCode(code)) }),
    );
    fc.assert(
      fc.property(text, (value) => {
        const shown = format(value);
        expect(lines).toHaveLength(1);
        // oxlint-disable-next-line no-control-regex
        expect(shown).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/);
        fc.pre(value.length <= 256);
        expect(shown.startsWith('"') ? JSON.parse(shown) : shown).toBe(value);
      }),
    );
  });

  test("is cut where it is long", () => {
    expect(format("x".repeat(256))).toBe("x".repeat(256));
    expect(format("x".repeat(257))).toBe(`"${"x".repeat(256)}…"`);
    expect(format("x".repeat(1_000_000))).toHaveLength(259);
    expect(format({ list: Array(1_000).fill(1) }).length).toBeLessThan(600);
    expect(format(new Error("y".repeat(1_000)))).toHaveLength(259);
  });

  test.each(["password", "Authorization", "jwt_secret", "accessToken", "api_token_hash", "PASSWORD"])(
    "is not shown where it is called %s",
    (key) => {
      for (const value of ["hunter2", "", 7, { nested: "hunter2" }, new Error("hunter2")])
        expect(format(value, key)).toBe("***");
      expect(lines.join("")).not.toContain("hunter2");
    },
  );
});

describe("sampled", () => {
  const hit = (key = "key", fields?: Record<string, unknown>) => log.sampled(key, "again", fields);
  const minute = 60_000;

  test("warns once a minute, and says then how many were held back", () => {
    hit("key", { client: "a" });
    for (let i = 0; i < 9; i++) {
      at += 1_000;
      hit();
    }
    at += minute - 9_001;
    hit();
    expect(lines).toEqual(["2026-01-14T10:00:00.000Z warn  again client=a\n"]);
    at += 1;
    hit("key", { client: "b" });
    expect(lines[1]).toBe("2026-01-14T10:01:00.000Z warn  again client=b heldBack=10\n");
    at += minute;
    hit();
    expect(lines[2]).toBe("2026-01-14T10:02:00.000Z warn  again\n");
  });

  test("holds back each key for itself", () => {
    hit("a");
    hit("b");
    hit("a");
    expect(lines).toHaveLength(2);
  });

  test("does not fall silent when the clock is set back", () => {
    hit();
    at -= 24 * 60 * minute;
    hit();
    hit();
    expect(lines).toHaveLength(2);
  });

  test("keeps no more than a thousand keys", () => {
    hit("first");
    for (let i = 0; i < 999; i++) hit(`key ${i}`);
    hit("first");
    expect(lines).toHaveLength(1_000);
    hit("one more"); // it forgets the others rather than grow
    hit("first");
    expect(lines).toHaveLength(1_002);
  });
});

import * as fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import { DomainError } from "../../src/core/errors.ts";
import { createCounters, type Counters } from "../../src/counters.ts";
import { createRateLimit, type RateLimit } from "../../src/http/rate-limit.ts";

let counters: Counters;
let at: number;
beforeEach(() => {
  counters = createCounters();
  at = 0;
});
const open = (burst: number, perMinute: number): RateLimit =>
  createRateLimit({ burst, perMinute, counters, counter: "http.calls_refused", now: () => at });

/** Undefined where it goes through, else the seconds to wait. */
function refusal(limit: RateLimit, key = "a"): number | undefined {
  try {
    limit.spend(key);
    return undefined;
  } catch (error) {
    if (!(error instanceof DomainError) || error.code !== "rate_limited") throw error;
    return error.retryAfterSeconds;
  }
}

/** How many go through until one does not. */
function spendAll(limit: RateLimit, key = "a"): number {
  for (let spent = 0; ; spent++) if (refusal(limit, key) !== undefined) return spent;
}

describe("a rate limit", () => {
  test("lets the burst through, exactly, and counts what it refuses", () => {
    const limit = open(100, 1_000);
    expect(spendAll(limit)).toBe(100);
    expect(spendAll(limit)).toBe(0);
    expect(counters.get("http.calls_refused")).toBe(2);
  });

  test("gives back at its rate, up to the burst and no further", () => {
    const limit = open(100, 1_000);
    spendAll(limit);
    at += 59;
    expect(spendAll(limit)).toBe(0);
    at += 1;
    expect(spendAll(limit)).toBe(1);
    at += 3_000;
    expect(spendAll(limit)).toBe(50);
    at += 3_600_000;
    expect(spendAll(limit)).toBe(100);
  });

  test("lets the burst and a minute's worth through in a minute of steady knocking", () => {
    const limit = open(100, 1_000);
    let passed = 0;
    for (at = 0; at < 60_000; at += 7) if (refusal(limit) === undefined) passed += 1;
    expect(passed).toBeGreaterThanOrEqual(1_098);
    expect(passed).toBeLessThanOrEqual(1_100);
  });

  test("keeps each key its own bucket", () => {
    const limit = open(3, 60);
    expect([spendAll(limit, "a"), spendAll(limit, "b"), spendAll(limit, "__proto__")]).toEqual([3, 3, 3]);
    expect(spendAll(limit, "a")).toBe(0);
  });

  test("says in whole seconds when to come again, and then there is one", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 50 }),
        fc.integer({ min: 1, max: 5_000 }),
        fc.array(fc.integer({ min: 0, max: 20_000 }), { maxLength: 10 }),
        (burst, perMinute, pauses) => {
          at = 0;
          const limit = open(burst, perMinute);
          for (const pause of pauses) {
            spendAll(limit);
            at += pause;
          }
          spendAll(limit);
          const seconds = refusal(limit) ?? 0;
          expect(seconds).toBeGreaterThanOrEqual(1);
          expect(Number.isInteger(seconds)).toBe(true);
          at += seconds * 1_000;
          expect(refusal(limit)).toBeUndefined();
        },
      ),
      { numRuns: 500 },
    );
  });

  test("never lets more through than burst and time allow", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 10 }),
        fc.integer({ min: 1, max: 6_000 }),
        fc.array(fc.integer({ min: 0, max: 500 }), { maxLength: 200 }),
        (burst, perMinute, pauses) => {
          at = 0;
          const limit = open(burst, perMinute);
          let passed = 0;
          for (const pause of pauses) {
            at += pause;
            if (refusal(limit) === undefined) passed += 1;
          }
          expect(passed).toBeLessThanOrEqual(burst + (at * perMinute) / 60_000 + 1e-6);
        },
      ),
    );
  });

  test("takes a good attempt back, and never above the burst", () => {
    const limit = open(3, 1);
    for (let i = 0; i < 50; i++) {
      limit.spend("a");
      limit.refund("a");
    }
    expect(spendAll(limit)).toBe(3);
    limit.refund("a");
    expect(spendAll(limit)).toBe(1);
    for (let i = 0; i < 50; i++) limit.refund("a");
    limit.refund("new");
    expect([spendAll(limit, "a"), spendAll(limit, "new")]).toEqual([3, 3]);
  });

  test("remembers ten thousand keys, and forgets the one longest unseen first", () => {
    const limit = open(1, 1);
    limit.spend("first");
    limit.spend("second");
    for (let i = 0; i < 9_998; i++) limit.spend(`key ${i}`);
    expect(refusal(limit, "first")).toBeDefined(); // seen again: now "second" is the one longest unseen
    expect(counters.get("http.callers_forgotten")).toBe(0);
    limit.spend("one more");
    expect(counters.get("http.callers_forgotten")).toBe(1);
    expect(refusal(limit, "first")).toBeDefined();
    expect(refusal(limit, "key 9997")).toBeDefined();
    expect(refusal(limit, "second")).toBeUndefined();
  });
});

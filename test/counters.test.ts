import { expect, test } from "vitest";
import { createCounters } from "../src/counters.ts";

test("counts by one or by more, and knows nothing that never counted", () => {
  const counters = createCounters();
  expect(counters.get("a")).toBe(0);
  expect(counters.snapshot()).toEqual({});
  counters.increment("a");
  counters.increment("a", 41);
  counters.increment("__proto__");
  expect(counters.get("a")).toBe(42);
  expect(counters.get("__proto__")).toBe(1);
  expect(counters.get("constructor")).toBe(0);
  expect(Object.entries(counters.snapshot())).toEqual([
    ["a", 42],
    ["__proto__", 1],
  ]);
});

test("a snapshot does not go on counting", () => {
  const counters = createCounters();
  counters.increment("a");
  const snapshot = counters.snapshot();
  counters.increment("a");
  expect(snapshot).toEqual({ a: 1 });
  expect(createCounters().get("a")).toBe(0);
});

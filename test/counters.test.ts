import { expect, test } from "vitest";
import { counterInfos, createCounters } from "../src/counters.ts";

test("counts by one or by more, and shows what has counted anything", () => {
  const counters = createCounters();
  expect(counters.get("mqtt.readings")).toBe(0);
  expect(counters.snapshot()).toEqual({});
  counters.increment("mqtt.readings");
  counters.increment("mqtt.readings", 41);
  counters.increment("mqtt.rejected.not_json");
  expect(counters.get("mqtt.readings")).toBe(42);
  expect(counters.snapshot()).toEqual({ "mqtt.readings": 42, "mqtt.rejected.not_json": 1 });
});

test("a snapshot does not go on counting", () => {
  const counters = createCounters();
  counters.increment("store.commits");
  const snapshot = counters.snapshot();
  counters.increment("store.commits");
  expect(snapshot).toEqual({ "store.commits": 1 });
  expect(createCounters().get("store.commits")).toBe(0);
});

test("every counter has a name of its own, and a meaning", () => {
  const names = counterInfos.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  for (const { name, help, metric, reason } of counterInfos) {
    expect(name).toMatch(/^[a-z]+(\.[a-z_]+)+$/);
    expect(metric).toMatch(/^[a-z]+(_[a-z]+)+$/);
    expect(`${help}${reason?.help ?? ""}`).toMatch(/^[A-Z][^\n]{10,}[^.\n]$/);
  }
  const families = Map.groupBy(counterInfos, ({ metric }) => metric);
  for (const [, members] of families)
    expect(new Set(members.map(({ reason }) => reason?.word)).size).toBe(members.length);
});

test("no other name is taken", () => {
  const counters = createCounters();
  // @ts-expect-error a name that stands in no table
  counters.increment("mqtt.unheard_of", 0);
  // @ts-expect-error a family is no counter
  counters.increment("mqtt.rejected", 0);
  expect(counters.snapshot()).toEqual({});
});

/// <reference lib="esnext.temporal" />
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createBuckets, intervals, openZone, utc, type Interval, type Zone } from "../../src/core/intervals.ts";

const zoneNames = [
  "UTC",
  "Europe/Ljubljana",
  "America/New_York",
  "Asia/Kolkata", // half an hour
  "Asia/Kathmandu", // three quarters
  "Australia/Lord_Howe", // daylight saving of half an hour
  "America/Sao_Paulo", // put its clock forward at midnight, until 2019
  "Africa/Casablanca", // leaves daylight saving for a month
  "Pacific/Apia", // left out 30 December 2011
];

const zone = (name: string): Zone => openZone(name) as Zone;

/** From 1971: before that some places were seconds off. */
const instants = fc.integer({ min: Date.UTC(1971, 0, 1), max: Date.UTC(2037, 0, 1) });

/** Temporal knows the calendars by itself. */
const inZone = (at: number, name: string): Temporal.ZonedDateTime =>
  Temporal.Instant.fromEpochMilliseconds(at).toZonedDateTimeISO(name);

function referenceStart(at: number, interval: Interval, name: string): number | undefined {
  const local = inZone(at, name);
  const day = local.startOfDay();
  if (interval === "1d") return day.epochMilliseconds;
  if (interval === "1w") return day.subtract({ days: local.dayOfWeek - 1 }).startOfDay().epochMilliseconds;
  if (interval === "1mo") return local.with({ day: 1 }).startOfDay().epochMilliseconds;
  return undefined;
}

test("a zone's offset is the platform's", () => {
  fc.assert(
    fc.property(instants, fc.constantFrom(...zoneNames), (at, name) => {
      expect(zone(name).offsetAt(at)).toBe(inZone(at, name).offsetNanoseconds / 1e6);
    }),
    { numRuns: 2_000 },
  );
});

test("days, weeks and months begin where the calendar of the place says", () => {
  fc.assert(
    fc.property(instants, fc.constantFrom(...zoneNames), fc.constantFrom("1d", "1w", "1mo"), (at, name, interval) => {
      expect(createBuckets(interval, zone(name)).startOf(at)).toBe(referenceStart(at, interval, name));
    }),
    { numRuns: 3_000 },
  );
});

test("every instant lies in the bucket that it is given, and buckets follow each other without a gap", () => {
  fc.assert(
    fc.property(instants, fc.constantFrom(...zoneNames), fc.constantFrom(...intervals), (at, name, interval) => {
      const { startOf, endOf } = createBuckets(interval, zone(name));
      const start = startOf(at);
      const end = endOf(start);
      expect(start).toBeLessThanOrEqual(at);
      expect(end).toBeGreaterThan(at);
      expect(startOf(start)).toBe(start);
      expect(startOf(end - 1)).toBe(start);
      expect(startOf(end)).toBe(end);
    }),
    { numRuns: 5_000 },
  );
});

test("months of the first hundred years are their own, and not those of 1900 to 1999", () => {
  const { startOf, endOf } = createBuckets("1mo", utc);
  const at = Date.parse("0001-12-03T04:05:06Z");
  expect(new Date(startOf(at)).toISOString()).toBe("0001-12-01T00:00:00.000Z");
  expect(new Date(endOf(startOf(at))).toISOString()).toBe("0002-01-01T00:00:00.000Z");
});

describe("the nights in which clocks change", () => {
  const hours = (name: string, from: string, to: string): number[] => {
    const { startOf, endOf } = createBuckets("1h", zone(name));
    const starts: number[] = [];
    for (let at = startOf(Date.parse(from)); at < Date.parse(to); at = endOf(at)) starts.push(at);
    return starts;
  };

  test.each([
    ["Europe/Ljubljana", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", 23],
    ["Europe/Ljubljana", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 25],
    ["America/New_York", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z", 23],
    ["America/New_York", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z", 25],
  ])("%s: the day from %s to %s has %i hours", (name, from, to, count) => {
    const { startOf, endOf } = createBuckets("1d", zone(name));
    expect(startOf(Date.parse(from))).toBe(Date.parse(from));
    expect(endOf(Date.parse(from))).toBe(Date.parse(to));
    expect(hours(name, from, to)).toHaveLength(count);
  });

  test("where midnight is skipped, the day begins with what comes instead", () => {
    const { startOf } = createBuckets("1d", zone("America/Sao_Paulo"));
    expect(new Date(startOf(Date.UTC(2018, 10, 4, 12))).toISOString()).toBe("2018-11-04T03:00:00.000Z");
  });
});

test("a name that is no time zone opens none", () => {
  expect(openZone("Europe/Atlantis")).toBeUndefined();
  expect(openZone("")).toBeUndefined();
  expect(openZone("UTC")).toBe(utc);
});

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { formatInstant, parseInstant } from "../../src/core/time.ts";

const pad = (n: number, width = 2): string => String(n).padStart(width, "0");

const firstInstant = Date.UTC(2000) - 2000 * 365.2425 * 86_400_000; // 0000-01-01T00:00:00Z: five Gregorian cycles
const lastInstant = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

/** A wall clock `offset` minutes ahead of UTC, as RFC 3339 writes it. */
function writeWithOffset(at: number, offset: number, digits: number): string {
  const local = new Date(at + offset * 60_000).toISOString();
  const sign = offset < 0 ? "-" : "+";
  const fraction = digits === 0 ? "" : `.${local.slice(20, 23).padEnd(digits, "7").slice(0, Math.max(3, digits))}`;
  const minutes = Math.abs(offset);
  return `${local.slice(0, 19)}${fraction}${sign}${pad(Math.floor(minutes / 60))}:${pad(minutes % 60)}`;
}

const dayMs = 86_400_000;

describe("parseInstant", () => {
  test("takes what the document writes", () => {
    expect(parseInstant("2026-01-14T10:00:00Z")).toBe(Date.UTC(2026, 0, 14, 10));
    expect(parseInstant("2026-01-14T11:00:00.250+01:00")).toBe(1_768_384_800_250);
  });

  test("finds the instant of any wall clock with any offset", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: firstInstant + dayMs, max: lastInstant - dayMs }),
        fc.integer({ min: -(23 * 60 + 59), max: 23 * 60 + 59 }),
        fc.integer({ min: 3, max: 9 }),
        (at, offset, digits) => {
          expect(parseInstant(writeWithOffset(at, offset, digits))).toBe(at);
          const second = Math.floor(at / 1_000) * 1_000;
          expect(parseInstant(writeWithOffset(second, offset, 0))).toBe(second);
        },
      ),
    );
  });

  test("takes a time exactly where calendar and clock have it", () => {
    const daysOf = (year: number, month: number): number =>
      month === 2
        ? (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0
          ? 29
          : 28
        : [4, 6, 9, 11].includes(month)
          ? 30
          : 31;
    fc.assert(
      fc.property(
        fc.oneof(fc.integer({ min: 0, max: 9999 }), fc.constantFrom(0, 4, 99, 100, 1900, 2000, 2024, 2026)),
        fc.integer({ min: 0, max: 13 }),
        fc.oneof(fc.integer({ min: 0, max: 33 }), fc.integer({ min: 28, max: 31 })),
        fc.tuple(
          fc.integer({ min: 0, max: 25 }),
          fc.integer({ min: 0, max: 61 }),
          fc.oneof(fc.integer({ min: 0, max: 59 }), fc.constantFrom(60, 61, 99)),
        ),
        (year, month, day, [hour, minute, second]) => {
          const text = `${pad(year, 4)}-${pad(month)}-${pad(day)}T${pad(hour)}:${pad(minute)}:${pad(second)}Z`;
          const exists =
            month >= 1 &&
            month <= 12 &&
            day >= 1 &&
            day <= daysOf(year, month) &&
            hour <= 23 &&
            minute <= 59 &&
            second <= 59;
          expect(parseInstant(text)).toBe(exists ? Date.parse(text) : undefined);
        },
      ),
      { numRuns: 500 },
    );
  });

  test.each([
    ["2026-02-29T00:00:00Z", "a leap day of a year that has none"],
    ["2026-02-30T00:00:00Z", "a day that no February has"],
    ["2026-04-31T00:00:00Z", "a day that the month does not have"],
    ["2026-00-10T00:00:00Z", "month 0"],
    ["2026-13-10T00:00:00Z", "month 13"],
    ["2026-01-00T00:00:00Z", "day 0"],
    ["2026-01-14T24:00:00Z", "hour 24"],
    ["2026-01-14T10:60:00Z", "minute 60"],
    ["2026-12-31T23:59:60Z", "a leap second"],
    ["2026-01-14T10:00:00+24:00", "an offset of a day"],
    ["2026-01-14T10:00:00+01:60", "an offset with 60 minutes"],
    ["2026-01-14", "a date alone"],
    ["10:00:00Z", "a time alone"],
    ["2026-01-14T10:00:00", "no offset"],
    ["2026-01-14T10:00Z", "no seconds"],
    ["2026-01-14 10:00:00Z", "a space for the T"],
    ["2026-01-14T10:00:00.Z", "a point without a fraction"],
    ["2026-01-14T10:00:00,5Z", "a comma for the point"],
    ["2026-01-14T10:00:00+0100", "an offset without a colon"],
    ["2026-01-14T10:00:00+01", "an offset without minutes"],
    ["2026-01-14T10:00:00−01:00", "a typographic minus"],
    ["2026-01-14T10:00:00 Z", "a space before the offset"],
    [" 2026-01-14T10:00:00Z", "padding before"],
    ["2026-01-14T10:00:00Z\n", "a line end after"],
    ["26-01-14T10:00:00Z", "a year of two digits"],
    ["12026-01-14T10:00:00Z", "a year of five digits"],
    ["+002026-01-14T10:00:00Z", "an expanded year"],
    ["-2026-01-14T10:00:00Z", "a negative year"],
    ["٢٠٢٦-01-14T10:00:00Z", "digits of another script"],
    ["2026-W03-3T10:00:00Z", "a week date"],
    ["2026-014T10:00:00Z", "an ordinal date"],
    ["Wed, 14 Jan 2026 10:00:00 GMT", "an RFC 1123 date"],
    ["1768384800", "a number"],
    ["now", "a word"],
    ["", "nothing"],
  ])("refuses %j: %s", (text) => {
    expect(parseInstant(text)).toBeUndefined();
  });

  test.each([
    ["2026-01-14t10:00:00z", "2026-01-14T10:00:00Z"],
    ["2026-01-14T10:00:00-00:00", "2026-01-14T10:00:00Z"],
    ["2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"],
    ["2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00Z"],
    ["2026-01-14T10:00:00.5Z", "2026-01-14T10:00:00.500Z"],
    ["2026-01-14T10:00:00.000Z", "2026-01-14T10:00:00Z"],
    ["2026-01-14T10:00:00.0009999Z", "2026-01-14T10:00:00Z"],
    ["2026-01-14T10:00:00.123999999Z", "2026-01-14T10:00:00.123Z"],
  ])("reads %s as %s", (text, same) => {
    expect(formatInstant(parseInstant(text) as number)).toBe(same);
  });

  test.each(["0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0042-03-01T12:00:00Z", "0099-12-31T23:59:59Z"])(
    "keeps the years 0 to 99 where they are: %s",
    (text) => {
      expect(parseInstant(text)).toBe(Date.parse(text));
      expect(formatInstant(parseInstant(text) as number)).toBe(text);
    },
  );

  test.each(["0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"])(
    "refuses %s: in UTC its year has no four digits, so it could not be said again",
    (text) => {
      expect(parseInstant(text)).toBeUndefined();
    },
  );
});

describe("formatInstant", () => {
  test("writes UTC, with a fraction only where there is one, and comes back as it went in", () => {
    const rfc3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3})?Z$/;
    fc.assert(
      fc.property(fc.integer({ min: firstInstant, max: lastInstant }), fc.boolean(), (milliseconds, isWhole) => {
        const at = isWhole ? Math.floor(milliseconds / 1_000) * 1_000 : milliseconds;
        const text = formatInstant(at);
        expect(text).toMatch(rfc3339);
        expect(text.includes(".")).toBe(at % 1_000 !== 0);
        expect(new Date(text).getTime()).toBe(at);
        expect(parseInstant(text)).toBe(at);
      }),
    );
  });
});

import * as fc from "fast-check";
import * as v from "valibot";
import { describe, expect, test } from "vitest";
import { describeIssue, finiteNumber, instant, integer, label, text, uuid } from "../../src/core/schemas.ts";

/** What `schema` makes of a value, or what it says against it. */
function check(schema: v.GenericSchema, value: unknown): unknown {
  const result = v.safeParse(schema, value, { abortEarly: true });
  return result.success ? { output: result.output } : describeIssue(result.issues[0]);
}

describe("finiteNumber", () => {
  test("takes every number that JSON can say but the infinite ones, and knows one zero", () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true }), (number) => {
        const result = v.safeParse(finiteNumber, number);
        expect(result.success).toBe(Number.isFinite(number));
        expect(result.success ? result.output : undefined).toBe(Number.isFinite(number) ? number + 0 : undefined);
      }),
    );
    expect(Object.is(v.parse(finiteNumber, -0), 0)).toBe(true);
    expect(check(finiteNumber, JSON.parse("1e999"))).toBe("must be a finite number");
  });

  test.each([NaN, "1", "", true, null, undefined, [], {}])("refuses %j", (value) => {
    expect(check(finiteNumber, value)).toBe("must be a number");
  });
});

describe("integer", () => {
  test("takes whole numbers within its bounds", () => {
    fc.assert(
      fc.property(fc.oneof(fc.integer({ min: -3, max: 8 }), fc.double()), (number) => {
        const isWithin = Number.isInteger(number) && number >= 1 && number <= 4;
        expect(v.is(integer(1, 4), number)).toBe(isWithin);
      }),
    );
    expect(check(integer(1, 4), 5)).toBe("must be an integer from 1 to 4");
    expect(check(integer(1), 1.5)).toBe("must be an integer of 1 or more");
    expect(check(integer(1), "1")).toBe("must be an integer of 1 or more");
    expect(check(integer(1), 2 ** 53)).toBe("must be an integer of 1 or more");
  });
});

test("a label says something, a text need not", () => {
  expect(check(label(3), "abc")).toEqual({ output: "abc" });
  expect(check(label(3), "")).toBe("must not be empty");
  expect(check(label(3), "abcd")).toBe("must not be longer than 3 characters");
  expect(check(text(3), "")).toEqual({ output: "" });
  expect(check(text(3), 3)).toBe("must be a string");
});

test("an instant becomes milliseconds, a UUID lower case", () => {
  expect(check(instant, "2026-01-14T10:00:00+01:00")).toEqual({ output: Date.UTC(2026, 0, 14, 9) });
  expect(check(instant, "2026-01-14")).toBe("must be an RFC 3339 time, such as 2026-01-14T10:00:00Z");
  expect(check(instant, 1_768_384_800)).toBe("must be an RFC 3339 time, such as 2026-01-14T10:00:00Z");
  expect(check(uuid(), "550E8400-E29B-41D4-A716-446655440000")).toEqual({
    output: "550e8400-e29b-41d4-a716-446655440000",
  });
  expect(check(uuid("invalid device id"), "x")).toBe("invalid device id");
});

test("a mistake is told with the field's name; one that is missing is required", () => {
  const schema = v.object({ device: v.object({ name: label(3) }), list: v.array(integer(1)) });
  expect(check(schema, { device: {}, list: [] })).toBe("device.name is required");
  expect(check(schema, { list: [] })).toBe("device is required");
  expect(check(schema, { device: { name: "" }, list: [] })).toBe("device.name must not be empty");
  expect(check(schema, { device: { name: "a" }, list: [1, 0] })).toBe("list.1 must be an integer of 1 or more");
});

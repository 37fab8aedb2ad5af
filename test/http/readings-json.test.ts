import * as fc from "fast-check";
import { expect, test } from "vitest";
import type { Reading } from "../../src/core/readings.ts";
import { writeReadings } from "../../src/http/root/readings-json.ts";
import { toReading } from "../../src/http/root/shapes.ts";

const write = (readings: Reading[]): string => Buffer.from(writeReadings(readings)).toString();

const reading: fc.Arbitrary<Reading> = fc.record({
  id: fc.oneof(fc.integer({ min: 1, max: 10_000 }), fc.maxSafeNat()),
  sensorId: fc.constantFrom("550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440001"),
  value: fc.oneof(
    fc.integer(),
    fc.integer({ min: -9_999_999, max: 9_999_999 }).map((n) => n / 1_000 + 0),
    fc.double({ noNaN: true, noDefaultInfinity: true }).map((n) => n + 0),
  ),
  valueAt: fc.oneof(
    fc.integer({ min: 1_768_000_000, max: 1_768_400_000 }).map((seconds) => seconds * 1_000),
    fc.integer({ min: Date.UTC(2000, 0), max: Date.UTC(2100, 0) }),
    fc.integer({ min: Date.parse("0000-01-01T00:00:00Z"), max: Date.parse("9999-12-31T23:59:59.999Z") }),
  ),
});

test("any readings are written as JSON.stringify writes them", () => {
  fc.assert(
    fc.property(fc.array(reading), (readings) => {
      expect(write(readings)).toBe(JSON.stringify(readings.map(toReading)));
    }),
    { numRuns: 2_000 },
  );
});

test.each([0, 1, -1, 0.5, -0.001, 0.1 + 0.2, 999.999, 1e21, 5e-324, -1.7976931348623157e308, 2 ** 31 / 1_000, 1e-7])(
  "so is %d",
  (value) => {
    const readings = [{ id: 1, sensorId: "s", value, valueAt: 0 }];
    expect(write(readings)).toBe(JSON.stringify(readings.map(toReading)));
  },
);

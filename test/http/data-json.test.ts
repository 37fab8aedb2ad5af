import * as fc from "fast-check";
import { expect, test } from "vitest";
import type { Data, DataPoint } from "../../src/core/points.ts";
import { formatInstant } from "../../src/core/time.ts";
import { writeData } from "../../src/http/v1/data-json.ts";
import { runToEnd } from "../../src/steps.ts";

const write = (deviceId: string, data: Omit<Data, "device">): string =>
  Buffer.from(runToEnd(writeData(deviceId, data as Data))).toString();

const stringify = (deviceId: string, { points, unit, total }: Omit<Data, "device">): string =>
  JSON.stringify({
    deviceId,
    data: points.map(({ at, value, count }) => ({
      timestamp: formatInstant(at),
      value,
      ...(unit !== null && { unit }),
      ...(count !== undefined && { count }),
    })),
    total,
  });

const point: fc.Arbitrary<DataPoint> = fc.record(
  {
    at: fc.oneof(
      fc.integer({ min: 400_000, max: 500_000 }).map((hours) => hours * 3_600_000),
      fc.integer({ min: Date.parse("0000-01-01T00:00:00Z"), max: Date.parse("9999-12-31T23:59:59.999Z") }),
    ),
    value: fc.oneof(
      fc.integer({ min: -9_999_999, max: 9_999_999 }).map((n) => n / 1_000),
      fc.double({ noNaN: true, noDefaultInfinity: true }),
    ),
    count: fc.nat(),
  },
  { requiredKeys: ["at", "value"] },
);

test("any data are written as JSON.stringify writes them", () => {
  const unit = fc.option(fc.oneof(fc.constantFrom("°C", '"', "\\", "㎍/㎥", "\ud800"), fc.string({ unit: "binary" })));
  fc.assert(
    fc.property(fc.string(), fc.array(point), unit, fc.nat(), (deviceId, points, of, total) => {
      const data = { points, unit: of, total };
      expect(write(deviceId, data)).toBe(stringify(deviceId, data));
    }),
    { numRuns: 2_000 },
  );
});

test.each([511, 512, 513, 1_024, 1_025])("so are %d points, which take several steps", (count) => {
  const points = Array.from({ length: count }, (_, i) => ({ at: i * 3_600_000, value: i / 7, count: i }));
  const data = { points, unit: null, total: count };
  expect(write("d", data)).toBe(stringify("d", data));
});

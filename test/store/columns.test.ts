import {
  array,
  assert as checkAll,
  constantFrom,
  double,
  integer,
  oneof,
  property,
  tuple,
  uint8Array,
} from "fast-check";
import { expect, test } from "vitest";
import { decodeArrivals, decodeColumns, encodeArrivals, encodeColumns } from "../../src/store/columns.ts";

const value = oneof(
  double({ noNaN: true, noDefaultInfinity: true }),
  // Counters of many digits beside measurements of many places, of one sensor.
  tuple(integer({ min: -(2 ** 52), max: 2 ** 52 }), integer({ min: 0, max: 12 })).map(
    ([n, places]) => n / 10 ** places,
  ),
  tuple(integer({ min: -999, max: 999 }), integer({ min: 0, max: 12 })).map(([n, places]) => n / 10 ** places),
  constantFrom(5e-324, Number.MAX_VALUE, 2 ** 53, 1e-9, 1e14, 12_345_678),
).map((n) => n + 0); // none is minus zero
const at = oneof(
  integer({ min: Date.parse("0000-01-01T00:00:00Z"), max: Date.parse("9999-12-31T23:59:59.999Z") }),
  integer({ min: -1_000, max: 1_000 }),
);
const id = oneof(integer({ min: 1, max: 10_000 }), integer({ min: 2 ** 31 - 5, max: 2 ** 49 }));

test("readings of one sensor come back to the last bit", () => {
  checkAll(
    property(array(tuple(id, at, value), { minLength: 1, maxLength: 20 }), (rows) => {
      const columns = { ids: rows.map(([i]) => i), times: rows.map(([, t]) => t), values: rows.map(([, , v]) => v) };
      expect(decodeColumns(encodeColumns(columns))).toStrictEqual(columns);
    }),
    { numRuns: 3_000 },
  );
});

test("a large value and one of many places keep to themselves, whatever comes first", () => {
  for (const values of [
    [12_345_678, 0.123456789],
    [0.123456789, 12_345_678],
    [1e14, 0, 1e-9, -1e14],
  ]) {
    const ids = values.map((_, i) => i + 1);
    expect(decodeColumns(encodeColumns({ ids, times: ids, values })).values).toEqual(values);
  }
});

test("arrivals come back as they were", () => {
  const fingerprint = oneof(integer({ min: 0, max: 0 }), integer({ min: 1, max: 2 ** 48 }));
  checkAll(
    property(array(tuple(integer({ min: 0, max: 2 ** 31 - 1 }), at, value, fingerprint)), (rows) => {
      const arrivals = rows.map(([sensorPk, valueAt, v, fp]) =>
        sensorPk === 0
          ? { sensorPk, valueAt: 0, value: 0, fingerprint: fp }
          : { sensorPk, valueAt, value: v, fingerprint: fp },
      );
      const found: typeof arrivals = [];
      decodeArrivals(
        encodeArrivals(arrivals.length, (i) => arrivals[i] as (typeof arrivals)[0]),
        (_, sensorPk, valueAt, v, fp) => found.push({ sensorPk, valueAt, value: v, fingerprint: fp }),
      );
      expect(found).toStrictEqual(arrivals);
    }),
  );
});

const sample = { ids: [1, 2, 3], times: [1_000, 2_000, 3_500], values: [1.5, 2.25, 1 / 3] };
const codeOf = (work: () => unknown): unknown => {
  try {
    work();
    return undefined;
  } catch (error) {
    return (error as { code?: unknown }).code ?? error;
  }
};
const damaged = { code: "SQLITE_CORRUPT" };

test("bytes that are cut off, too many or of more readings than they can hold are damage, at once", () => {
  const block = encodeColumns(sample);
  const arrivals = encodeArrivals(2, (i) => ({ sensorPk: 7, valueAt: i, value: i / 3, fingerprint: i }));
  const ignore = () => undefined;
  for (let length = 0; length < block.length; length++)
    expect(() => decodeColumns(block.subarray(0, length))).toThrow(expect.objectContaining(damaged));
  for (let length = 0; length < arrivals.length; length++)
    expect(() => decodeArrivals(arrivals.subarray(0, length), ignore)).toThrow(expect.objectContaining(damaged));
  const endless = Buffer.from([1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0]);
  for (const bytes of [Buffer.concat([block, Buffer.of(0)]), endless, Buffer.alloc(100, 0x5a), Buffer.alloc(100, 0xff)])
    expect(() => decodeColumns(bytes)).toThrow(expect.objectContaining(damaged));
  for (const bytes of [Buffer.concat([arrivals, Buffer.of(0)]), endless, Buffer.alloc(100, 0x5a)])
    expect(() => decodeArrivals(bytes, ignore)).toThrow(expect.objectContaining(damaged));
});

test("whatever bytes there are, they are readings or damage", () => {
  checkAll(
    property(uint8Array({ maxLength: 60 }), (bytes) => {
      for (const decode of [decodeColumns, (data: Uint8Array) => decodeArrivals(data, () => undefined)])
        expect(codeOf(() => decode(Uint8Array.of(1, ...bytes)))).toBeOneOf([undefined, damaged.code]);
    }),
    { numRuns: 2_000 },
  );
});

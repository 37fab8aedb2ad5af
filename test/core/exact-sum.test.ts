import * as fc from "fast-check";
import { expect, test } from "vitest";
import { addExact, addPacked, packSum, roundSum, type ExactSum } from "../../src/core/exact-sum.ts";

/** Sums in whole multiples of 2^-90, which the values below all are: no rounding before the end. */
const unit = 2n ** 90n;
const toUnits = (value: number): bigint => BigInt(value * 2 ** 60) * 2n ** 30n;
const referenceSum = (values: number[]): number =>
  Number(values.reduce((sum, value) => sum + toUnits(value), 0n)) / Number(unit);

const values = fc.array(
  fc.double({ min: 1e-2, max: 1e6, noNaN: true }).chain((value) => fc.constantFrom(value, -value)),
  { maxLength: 60 },
);

const sumOf = (numbers: number[]): ExactSum => {
  const sum: ExactSum = [];
  for (const number of numbers) addExact(sum, number);
  return sum;
};

test("a sum is rounded once, at the end", () => {
  fc.assert(
    fc.property(values, (numbers) => {
      expect(roundSum(sumOf(numbers))).toBe(referenceSum(numbers));
    }),
  );
});

test("the order does not matter", () => {
  fc.assert(
    fc.property(values, (numbers) => {
      expect(roundSum(sumOf(numbers.toSorted((a, b) => a - b)))).toBe(roundSum(sumOf(numbers)));
    }),
  );
});

test("sums of stored sums are the sum of all, however they were grouped", () => {
  fc.assert(
    fc.property(fc.array(values, { maxLength: 8 }), (groups) => {
      const total: ExactSum = [];
      for (const group of groups) {
        const { sum, rest } = packSum(sumOf(group));
        addPacked(total, sum, rest);
      }
      expect(roundSum(total)).toBe(roundSum(sumOf(groups.flat())));
    }),
  );
});

test("what plain addition loses is kept", () => {
  expect([1e16, 1, -1e16].reduce((a, b) => a + b)).toBe(0);
  expect(roundSum(sumOf([1e16, 1, -1e16]))).toBe(1);
  expect(roundSum(sumOf(Array.from({ length: 10 }, () => 0.1)))).toBe(1);
});

test("a sum that is one double is stored without a rest", () => {
  expect(packSum(sumOf([20.5, 21, 21.5]))).toEqual({ sum: 63, rest: null });
  expect(packSum([])).toEqual({ sum: 0, rest: null });
});

test("beyond the range of doubles a sum stays at its edge", () => {
  expect(roundSum(sumOf([Number.MAX_VALUE, Number.MAX_VALUE]))).toBe(Number.MAX_VALUE);
  expect(roundSum(sumOf([-Number.MAX_VALUE, -Number.MAX_VALUE]))).toBe(-Number.MAX_VALUE);
});

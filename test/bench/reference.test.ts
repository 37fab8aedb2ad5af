import { expect, test } from "vitest";
import { findRegressions, findUnseen, readReference } from "./reference.ts";

const reference = { slower: 0.8, faster: 0.8, gone: 0.8 };
const figures = [
  { what: "slower", measured: "0.39", ratio: 0.39 },
  { what: "faster", measured: "0.41", ratio: 0.41 },
  { what: "new", measured: "0.01", ratio: 0.01 },
  { what: "no ratio", measured: "3 ms" },
];

test("a ratio below half of the reference's is told of, and no other", () => {
  expect(findRegressions(figures, reference)).toEqual(["slower is 0.39, and was 0.8"]);
});

test("what the reference has and nobody has measured is told of", () => {
  expect(findUnseen(figures, reference)).toEqual(["gone"]);
});

test("the reference has ratios to compare with", () => {
  const ratios = Object.entries(readReference());
  expect(ratios.length).toBeGreaterThan(5);
  expect(ratios.filter(([, ratio]) => !(ratio > 0 && ratio < 100))).toEqual([]);
});

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Figure } from "./report.ts";

// The ratios of a run to compare with. No times: those are one machine's.

const file = fileURLToPath(new URL("reference.json", import.meta.url));

/** Ratios differ from machine to machine and with what else it does; one that is halved has another reason. */
const tolerance = 0.5;

export type Reference = Record<string, number>;

export const readReference = (): Reference => JSON.parse(readFileSync(file, "utf8")) as Reference;

export function writeReference(figures: readonly Figure[]): void {
  const ratios: Reference = readReference();
  for (const { what, ratio } of figures) if (ratio !== undefined) ratios[what] = Number(ratio.toPrecision(2));
  writeFileSync(file, `${JSON.stringify(ratios, undefined, 2)}\n`);
}

/** A figure with what the reference allows in place of its goal, which is that of the long form. */
export function compare({ what, measured, ratio }: Figure, reference: Reference): Figure {
  const before = reference[what];
  if (ratio === undefined || before === undefined) return { what, measured };
  const least = before * tolerance;
  return { what, measured, ratio, goal: `≥ ${Number(least.toPrecision(2))}`, isMet: ratio >= least };
}

/** Each ratio that is below half of the reference's, in words. What the reference does not have is not compared. */
export const findRegressions = (figures: readonly Figure[], reference: Reference): string[] =>
  figures.flatMap((figure) => {
    const { isMet } = compare(figure, reference);
    return isMet === false
      ? [`${figure.what} is ${figure.ratio?.toPrecision(2)}, and was ${reference[figure.what]}`]
      : [];
  });

/** What the reference has and the run has not. */
export const findUnseen = (figures: readonly Figure[], reference: Reference): string[] =>
  Object.keys(reference).filter((what) => !figures.some((figure) => figure.what === what));

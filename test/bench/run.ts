// npm run bench [-- part …]: ratios taken in one run, since one machine is not another and no hour like the next.
//
//   --short              some parts, small; ends with 1 where a ratio is less than half of what reference.json has
//   --update-reference   the same, and writes reference.json
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { measureCost } from "./cost.ts";
import { measureFanout } from "./fanout.ts";
import { measureFootprint } from "./footprint.ts";
import { measureIngest } from "./ingest.ts";
import { measureLatency } from "./latency.ts";
import { measureQueries, measureQueriesShort } from "./queries.ts";
import { compare, findRegressions, findUnseen, readReference, writeReference } from "./reference.ts";
import { renderTable, type Figure } from "./report.ts";
import { measureRest } from "./rest.ts";
import { measureSize } from "./size.ts";
import { measureWear } from "./wear.ts";

type Parts = Record<string, () => Promise<Figure[]>>;

const parts: Parts = {
  ingest: measureIngest,
  cost: measureCost,
  fanout: measureFanout,
  latency: measureLatency,
  rest: measureRest,
  queries: measureQueries,
  size: measureSize,
  wear: measureWear,
  footprint: measureFootprint,
};

const shortParts: Parts = {
  ingest: () => measureIngest({ messages: 20_000 }),
  rest: () => measureRest({ rounds: 3, roundSeconds: 1, readingsOfEach: 1_000 }),
  queries: measureQueriesShort,
};

/** A part that was disturbed is measured once more; what has become slow is so again. */
const attempts = 3;

async function measure(from: Parts, name: string): Promise<Figure[]> {
  console.error(`measuring ${name} …`);
  const figures = await (from[name] as () => Promise<Figure[]>)();
  await sleep(500); // what was ended is gone
  return figures;
}

const { values, positionals } = parseArgs({
  options: {
    short: { type: "boolean", default: false },
    "update-reference": { type: "boolean", default: false },
  },
  allowPositionals: true,
});
const isUpdate = values["update-reference"];
const isShort = values.short || isUpdate;
const from = isShort ? shortParts : parts;
const names = positionals.length > 0 ? positionals : Object.keys(from);
const unknown = names.filter((name) => !Object.hasOwn(from, name));
if (unknown.length > 0) {
  console.error(`no such part: ${unknown.join(", ")}; there are ${Object.keys(from).join(", ")}`);
  process.exit(2);
}

const reference = readReference();
const startedAt = performance.now();
const figures: Figure[] = [];
const regressions: string[] = [];
for (const name of names) {
  let found = await measure(from, name);
  if (isShort && !isUpdate) {
    let worse = findRegressions(found, reference);
    for (let i = 1; i < attempts && worse.length > 0; i++) {
      console.error(`${worse.join("; ")}: once more`);
      found = await measure(from, name);
      worse = findRegressions(found, reference);
    }
    regressions.push(...worse);
  }
  figures.push(...(isShort && !isUpdate ? found.map((figure) => compare(figure, reference)) : found));
}

console.log(`\n${renderTable(figures)}\n`);
console.error(`measured in ${Math.round((performance.now() - startedAt) / 1_000)} s`);
if (isUpdate) writeReference(figures);
else if (isShort) {
  console.log(
    regressions.length === 0
      ? "No ratio is below half of the reference's."
      : `Below half of the reference's: ${regressions.join("; ")}.`,
  );
  if (regressions.length > 0) process.exitCode = 1;
  const unseen = positionals.length > 0 ? [] : findUnseen(figures, reference);
  // Where a program is not installed, its rows are not there; or a row has another name now.
  if (unseen.length > 0) console.log(`In reference.json, and not measured: ${unseen.join("; ")}.`);
} else {
  const missed = figures.filter(({ isMet }) => isMet === false);
  console.log(missed.length === 0 ? "Every goal was met." : `Not met: ${missed.map(({ what }) => what).join("; ")}.`);
}

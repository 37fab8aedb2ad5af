// npm run bench [part …]: ratios taken in one run, since one machine is not another and no hour like the next.
import { setTimeout as sleep } from "node:timers/promises";
import { measureCost } from "./cost.ts";
import { measureFanout } from "./fanout.ts";
import { measureFootprint } from "./footprint.ts";
import { measureIngest } from "./ingest.ts";
import { measureLatency } from "./latency.ts";
import { renderTable, type Figure } from "./report.ts";
import { measureRest } from "./rest.ts";

const parts: Record<string, () => Promise<Figure[]>> = {
  ingest: measureIngest,
  cost: measureCost,
  fanout: measureFanout,
  rest: measureRest,
  footprint: measureFootprint,
  latency: measureLatency,
};

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(parts);
const unknown = names.filter((name) => !Object.hasOwn(parts, name));
if (unknown.length > 0) {
  console.error(`no such part: ${unknown.join(", ")}; there are ${Object.keys(parts).join(", ")}`);
  process.exit(2);
}

const figures: Figure[] = [];
for (const name of names) {
  console.error(`measuring ${name} …`);
  figures.push(...(await (parts[name] as () => Promise<Figure[]>)()));
  await sleep(500); // what was ended is gone
}
console.log(`\n${renderTable(figures)}\n`);
const missed = figures.filter(({ isMet }) => isMet === false);
console.log(missed.length === 0 ? "Every goal was met." : `Not met: ${missed.map(({ what }) => what).join("; ")}.`);

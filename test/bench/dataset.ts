import { createHash } from "node:crypto";
import {
  constants,
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { fileURLToPath } from "node:url";
import Sqlite from "better-sqlite3";
import {
  addRollup,
  addValue,
  emptyAggregate,
  floorTo,
  rollupWidths,
  type Aggregate,
  type RollupRow,
} from "../../src/core/rollups.ts";
import { packSum, type SumRest } from "../../src/core/exact-sum.ts";
import { createBlocks } from "../../src/store/blocks.ts";
import { emptyColumns } from "../../src/store/columns.ts";
import { createReadings } from "../../src/store/readings.ts";
import { createRandom } from "../support/random.ts";
import { makeFolder } from "./processes.ts";
import { makeStore } from "./store.ts";

// Stores of millions of readings, as a gateway would have written them: sealed slice by slice in the order of arrival,
// the newest readings still in the log, one row each as they came one by one; hours and days summed up. Made in seconds,
// without what the gateway does besides, and kept under dist/ for the next time.

export interface DatasetOptions {
  /** 127 at most. */
  sensors: number;
  days: number;
  /** `noise`: random doubles at random intervals, which nothing compresses. */
  kind?: "decimals" | "noise";
  /** Readings that are not sealed yet: 65,536 to 131,072 in a gateway that has been running for long. */
  waiting?: number;
}

export interface Dataset {
  path: string;
  readings: number;
  sensorIds: string[];
  /** The device of each sensor. */
  deviceIds: string[];
  from: number;
  to: number;
  bytes: number;
}

const { hour, day } = rollupWidths;

const end = Date.parse("2026-01-14T09:47:23.456Z");
/** A hundred thousand readings of each sensor in a year. */
const periodMs = 315_360;
/** Quartz is wrong by that much, one way or the other. */
const drift = 20e-6;
const jitterMs = 40;
/** Readings that are sealed in one go. */
const perSlice = 65_536;

const cache = fileURLToPath(new URL("../../dist/bench-stores", import.meta.url));

/** What the stores depend on: how readings and sums are stored, and this script. */
function hashSources(): string {
  const hash = createHash("sha256");
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const migrations = readdirSync(`${root}drizzle`).filter((name) => name.endsWith(".sql"));
  for (const file of [
    ...migrations.map((name) => `drizzle/${name}`),
    ...["readings", "tail", "blocks", "columns"].map((name) => `src/store/${name}.ts`),
    ...["rollups", "exact-sum"].map((name) => `src/core/${name}.ts`),
    ...["dataset", "store"].map((name) => `test/bench/${name}.ts`),
  ])
    hash.update(readFileSync(root + file));
  return hash.digest("hex").slice(0, 16);
}

/** The store of that kind, made where it is not there yet. Whoever starts a gateway on it takes a {@link copyDataset}. */
export async function openDataset(options: DatasetOptions): Promise<Dataset> {
  const { sensors, days, kind = "decimals", waiting = 98_304 } = options;
  const version = hashSources();
  const path = `${cache}/${version}-${kind}-${sensors}-${days}-${waiting}.db`;
  if (!existsSync(path)) {
    mkdirSync(cache, { recursive: true });
    for (const name of readdirSync(cache)) if (!name.startsWith(version)) rmSync(`${cache}/${name}`);
    using folder = makeFolder();
    await makeStore(folder.path, sensors);
    const aside = `${folder.path}/lambdaiot.db`;
    fill(aside, { sensors, days, kind, waiting });
    renameSync(aside, path);
  }
  const sqlite = new Sqlite(path, { readonly: true });
  const rows = sqlite
    .prepare<[], [sensor: string, device: string]>(
      "SELECT s.id, d.id FROM sensors s JOIN devices d ON d.pk = s.device_pk ORDER BY s.pk",
    )
    .raw()
    .all();
  const readings = sqlite
    .prepare<[], number>("SELECT (SELECT sum(count) FROM blocks) + (SELECT coalesce(sum(count), 0) FROM arrivals)")
    .pluck()
    .get() as number;
  sqlite.close();
  return {
    path,
    readings,
    sensorIds: rows.map(([id]) => id),
    deviceIds: rows.map(([, id]) => id),
    from: end - days * day,
    to: end,
    bytes: statSync(path).size,
  };
}

/** Puts a copy where a gateway finds it in `folder`. */
export function copyDataset({ path }: Dataset, folder: string): void {
  const copy = `${folder}/lambdaiot.db`;
  copyFileSync(path, copy, constants.COPYFILE_FICLONE);
  // Or the system writes it half a minute later, and whoever waits for the disk then waits for that.
  for (const file of [path, copy]) {
    const handle = openSync(file, "r+");
    fsyncSync(handle);
    closeSync(handle);
  }
}

interface Cell {
  startAt: number;
  sensorPk: number;
  aggregate: Aggregate;
}

function fill(path: string, { sensors, days, kind, waiting }: Required<DatasetOptions>): void {
  const sqlite = new Sqlite(path);
  sqlite.pragma("synchronous = OFF");
  sqlite.pragma("cache_size = -65536");
  const pks = sqlite.prepare<[], number>("SELECT pk FROM sensors ORDER BY pk").pluck().all();
  const source = createSource({ sensors, from: end - days * day, kind });
  const sums = createSums(sqlite);
  const blocks = createBlocks(sqlite);
  const sliceMs = (perSlice / sensors) * periodMs;
  const sealedTo = end - (waiting / sensors) * periodMs;
  let id = 1;
  for (let to = end - days * day; to < sealedTo;) {
    to = Math.min(sealedTo, to + sliceMs);
    sqlite.transaction(() => {
      const columns = pks.map(() => emptyColumns());
      source.visit(to, (sensor, at, value) => {
        const { ids, times, values } = columns[sensor] as (typeof columns)[0];
        ids.push(id++);
        times.push(at);
        values.push(value);
        sums.add(pks[sensor] as number, at, value);
      });
      for (const [sensor, ofSensor] of columns.entries())
        if (ofSensor.ids.length > 0) blocks.merge(pks[sensor] as number, ofSensor);
      sums.write();
    })();
  }
  const readings = createReadings(sqlite);
  sqlite.transaction(() => {
    source.visit(end, (sensor, at, value) => {
      const pk = pks[sensor] as number;
      readings.append(pk, at, value);
      sums.add(pk, at, value);
      readings.beforeCommit();
      readings.settle();
    });
    sums.close();
    sqlite.prepare("INSERT OR REPLACE INTO progress (name, value) VALUES ('rollups', ?)").run(readings.lastId());
  })();
  sqlite.pragma("wal_checkpoint(TRUNCATE)");
  sqlite.close();
}

/** The readings of all sensors in the order in which they come. */
function createSource({ sensors, from, kind }: { sensors: number; from: number; kind: "decimals" | "noise" }) {
  const random = createRandom(1);
  const clocks = Array.from({ length: sensors }, (_, sensor) => ({
    at: from + (sensor / sensors) * periodMs,
    periodMs: periodMs * (1 + drift * (2 * random() - 1)),
  }));
  let keys = new Float64Array(2 * perSlice);

  return {
    /** Up to the instant `to`, from where the last visit ended. */
    visit(to: number, each: (sensor: number, at: number, value: number) => void): void {
      let count = 0;
      for (const [sensor, clock] of clocks.entries()) {
        for (; clock.at < to; clock.at += kind === "noise" ? -Math.log(1 - random()) * periodMs : clock.periodMs) {
          if (count === keys.length) {
            const longer = new Float64Array(2 * keys.length);
            longer.set(keys);
            keys = longer;
          }
          // The instant and the sensor in one number sort fastest.
          keys[count++] = Math.floor(clock.at + (kind === "noise" ? 0 : random() * jitterMs)) * 128 + sensor;
        }
      }
      for (const key of keys.subarray(0, count).toSorted()) {
        const sensor = key % 128;
        const at = (key - sensor) / 128;
        each(sensor, at, kind === "noise" ? random() * 1_000 : temperature(sensor, at));
      }
    },
  };

  /** 21.53: over the year, over the day, and what the sensor makes of it. */
  function temperature(sensor: number, at: number): number {
    const ofYear = 6 * Math.sin((2 * Math.PI * at) / (365 * day) + sensor);
    const ofDay = 3 * Math.sin((2 * Math.PI * at) / day + sensor);
    return Math.round(100 * (20 + ofYear + ofDay + 0.2 * (random() - 0.5))) / 100;
  }
}

/** Rollups, written when the hour or the day is over, in the order in which the gateway would. */
function createSums(sqlite: Sqlite.Database) {
  const put = sqlite.prepare<[number, number, number, number, number, SumRest, number, number]>(
    `INSERT INTO rollups (width, sensor_pk, start_at, count, sum, sum_rest, min, max) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
  );
  /** Of each sensor the hour, or the day, that is not over yet. */
  const open = new Map<number, Map<number, Cell>>([hour, day].map((width) => [width, new Map()]));
  let done: [width: number, Cell][] = [];

  function cellAt(width: number, sensorPk: number, at: number): Cell {
    const cells = open.get(width) as Map<number, Cell>;
    const startAt = floorTo(at, width);
    const current = cells.get(sensorPk);
    if (current?.startAt === startAt) return current;
    if (current !== undefined) finish(width, current);
    const cell: Cell = { startAt, sensorPk, aggregate: emptyAggregate() };
    cells.set(sensorPk, cell);
    return cell;
  }

  function toRow({ startAt, aggregate: { count, sum, min, max } }: Cell): RollupRow {
    const packed = packSum(sum);
    return [startAt, count, packed.sum, packed.rest, min, max];
  }

  function finish(width: number, cell: Cell): void {
    done.push([width, cell]);
    if (width === hour) addRollup(cellAt(day, cell.sensorPk, cell.startAt).aggregate, toRow(cell));
  }

  function write(): void {
    done.sort(([, a], [, b]) => a.startAt - b.startAt || a.sensorPk - b.sensorPk);
    for (const [width, cell] of done) {
      const [startAt, ...rest] = toRow(cell);
      put.run(width, cell.sensorPk, startAt, ...rest);
    }
    done = [];
  }

  return {
    add: (sensorPk: number, at: number, value: number): void => addValue(cellAt(hour, sensorPk, at).aggregate, value),
    write,
    /** What is not over yet as well. */
    close(): void {
      // Hours first: they are summed up into the days.
      for (const [width, cells] of open) for (const cell of cells.values()) finish(width, cell);
      write();
    },
  };
}

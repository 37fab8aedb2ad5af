import Sqlite from "better-sqlite3";
import { openDataset, type Dataset } from "./dataset.ts";
import { atMost, inform, type Figure } from "./report.ts";

// What a reading takes at rest, in a store that has been checkpointed: in all, and as sealed blocks alone.

interface Sizes {
  total: number;
  /** Blocks with their indexes, by the readings in them. */
  sealed: number;
  rollups: number;
}

function measure({ path, bytes, readings }: Dataset): Sizes {
  const sqlite = new Sqlite(path, { readonly: true });
  const pagesOf = (names: string): number =>
    sqlite
      .prepare<[], number>(
        `SELECT sum(pgsize) FROM dbstat WHERE aggregate = 1 AND name IN
           (SELECT name FROM sqlite_schema WHERE tbl_name = '${names}')`,
      )
      .pluck()
      .get() as number;
  const sealed = sqlite.prepare<[], number>("SELECT sum(count) FROM blocks").pluck().get() as number;
  const sizes = {
    total: bytes / readings,
    sealed: pagesOf("blocks") / sealed,
    rollups: pagesOf("rollups") / readings,
  };
  sqlite.close();
  return sizes;
}

export async function measureSize(): Promise<Figure[]> {
  const dataset = await openDataset({ sensors: 100, days: 365 });
  const sizes = measure(dataset);
  const noise = measure(await openDataset({ sensors: 100, days: 36.5, kind: "noise" }));
  return [
    inform("size: store of a year, 100 sensors, a reading each 315 s", dataset.bytes / 1e6, "MB"),
    atMost("size: a reading, everything included", sizes.total, 24, "B"),
    atMost("size: a sealed reading, indexes included", sizes.sealed, 6, "B"),
    inform("size: a reading's share of hours and days", sizes.rollups, "B"),
    inform("size: a sealed reading of random doubles at random times", noise.sealed, "B"),
  ];
}

import Sqlite from "better-sqlite3";
import { createReadings, type StoredReading } from "../../src/store/readings.ts";

const pageSize = 10_000;

/** All readings in the store at `path`, in the order of their ids, as another process sees them. */
export function readReadings(path: string): StoredReading[] {
  const sqlite = new Sqlite(path, { readonly: true });
  try {
    const readings = createReadings(sqlite);
    const all: StoredReading[] = [];
    for (
      let page = readings.after(0, pageSize);
      page.length > 0;
      page = readings.after(all.at(-1)?.id ?? 0, pageSize)
    ) {
      for (const reading of page) all.push(reading);
    }
    return all;
  } finally {
    sqlite.close();
  }
}

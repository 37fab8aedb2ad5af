import Sqlite from "better-sqlite3";
import { createReadings, type StoredReading } from "../../src/store/readings.ts";

/** All readings in the store at `path`, in the order of their ids, as another process sees them. */
export function readReadings(path: string): StoredReading[] {
  const sqlite = new Sqlite(path, { readonly: true });
  try {
    return createReadings(sqlite).after(0, Number.MAX_SAFE_INTEGER);
  } finally {
    sqlite.close();
  }
}

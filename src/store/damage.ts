import Sqlite from "better-sqlite3";

/** What SQLite says of a page that is none, said of bytes in one: the store counts as damaged. */
export const createDamage = (): Error => new Sqlite.SqliteError("readings that cannot be decoded", "SQLITE_CORRUPT");

/** Whether a page of the store's file is none. Only what touches it fails, so it may show long after the start. */
export const isDamage = (error: unknown): boolean => {
  const { code, cause } = error as { code?: unknown; cause?: unknown };
  return (typeof code === "string" && /^SQLITE_(?:CORRUPT|NOTADB)/.test(code)) || (cause != null && isDamage(cause));
};

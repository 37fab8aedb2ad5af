import { existsSync, renameSync, rmSync } from "node:fs";
import type { Database } from "better-sqlite3";
import { migrations } from "embedded:migrations";
import { StartError } from "../core/errors.ts";
import type { Log } from "../log.ts";
import { moveReadings } from "./move-readings.ts";

/** What SQL alone cannot do, by the name of the migration after which it is done. */
const moves: Record<string, (sqlite: Database) => void> = { "0005_blocks": moveReadings };

/** "liot": marks a SQLite file as a store of this gateway (`PRAGMA application_id`). */
const applicationId = 0x6c696f74;

/**
 * Refuses a store that is not ours or that a newer version wrote, before anything in the file changes.
 * The schema's version is the number of migrations applied (`PRAGMA user_version`).
 */
export function checkOrigin(sqlite: Database, path: string): void {
  const id = sqlite.pragma("application_id", { simple: true }) as number;
  const version = sqlite.pragma("user_version", { simple: true }) as number;
  const tables = sqlite.prepare("SELECT count(*) FROM sqlite_schema").pluck().get() as number;
  if (id !== applicationId && (id !== 0 || tables > 0)) {
    throw new StartError(`${path} is a SQLite file of another program; choose another database.path`);
  }
  if (version > migrations.length) {
    throw new StartError(
      `${path} was written by a newer version of lambdaiot (schema ${version}, this one knows ${migrations.length}); it was left untouched`,
    );
  }
}

/**
 * Brings the store to the newest schema, all of it in one transaction: a power cut in the middle leaves the old one.
 * A store that holds data is copied first, beside itself, as `…-schema-N.bak`.
 */
export function migrate(sqlite: Database, path: string, log: Log): void {
  const version = sqlite.pragma("user_version", { simple: true }) as number;
  const pending = migrations.slice(version);
  if (pending.length === 0) return;
  if (version > 0) backUp(sqlite, `${path}-schema-${version}.bak`, log);
  // Rebuilding a table, SQLite's way to change one, drops rows that refer to it unless the keys are off meanwhile;
  // the pragma does nothing inside a transaction.
  sqlite.pragma("foreign_keys = OFF");
  sqlite
    .transaction(() => {
      for (const { name, statements } of pending) {
        for (const statement of statements) sqlite.exec(statement);
        moves[name]?.(sqlite);
      }
      const broken = sqlite.pragma("foreign_key_check") as unknown[];
      if (broken.length > 0)
        throw new StartError(`${path} does not survive the migration: ${broken.length} rows refer to nothing`);
      sqlite.pragma(`application_id = ${applicationId}`);
      sqlite.pragma(`user_version = ${migrations.length}`);
    })
    .exclusive();
  sqlite.pragma("foreign_keys = ON");
  if (version > 0) log.info("store migrated", { from: version, to: migrations.length });
}

function backUp(sqlite: Database, backup: string, log: Log): void {
  if (existsSync(backup)) return; // from an earlier try at this same migration
  // Under another name until it is whole: one that a power cut broke off must not pass for a copy at the next start.
  const unfinished = `${backup}.part`;
  rmSync(unfinished, { force: true });
  sqlite.prepare("VACUUM INTO ?").run(unfinished);
  renameSync(unfinished, backup);
  log.info("store copied before the migration", { backup });
}

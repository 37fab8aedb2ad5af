import type { Database } from "better-sqlite3";

// What is kept in memory of the store must not outlive a change. The store says itself when a table has changed: by
// temporary triggers for this connection, by its data version for all others.

export interface Watch {
  /** To be asked before what is kept is used outside of a transaction: calls `forget` where another process has written. */
  refresh(): void;
}

let watches = 0;

/** `changes`: what follows AFTER in CREATE TRIGGER, with the table as `main.…`. */
export function watchChanges(sqlite: Database, changes: readonly string[], forget: () => void): Watch {
  const dataVersion = sqlite.prepare<[], number>("PRAGMA data_version").pluck();
  let seenVersion = dataVersion.get();
  if (!sqlite.readonly) {
    const name = `watch_${(watches += 1)}`;
    sqlite.function(name, () => {
      forget();
      return null;
    });
    for (const [i, change] of changes.entries())
      sqlite.exec(`CREATE TEMP TRIGGER ${name}_${i} AFTER ${change} BEGIN SELECT ${name}(); END`);
  }
  return {
    refresh() {
      const version = dataVersion.get();
      if (version === seenVersion) return;
      seenVersion = version;
      forget();
    },
  };
}

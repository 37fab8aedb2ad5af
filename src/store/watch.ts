import type { Database } from "better-sqlite3";

// What is kept in memory of the store must not outlive a change. The store says itself when a table has changed: by
// temporary triggers for this connection, by its data version for all others.

export interface Watch {
  /**
   * To be called before what is kept is used: calls `forget` where another process has written, which it finds out within a
   * quarter of a second.
   */
  refresh(): void;
}

/** The question goes through the locks between processes, and costs as much as a query. */
const lookAgainMs = 250;

let watches = 0;

/** `changes`: what follows AFTER in CREATE TRIGGER, with the table as `main.…`. */
export function watchChanges(sqlite: Database, changes: readonly string[], forget: () => void): Watch {
  const dataVersion = sqlite.prepare<[], number>("PRAGMA data_version").pluck();
  let seenVersion = dataVersion.get();
  let lookedAt = performance.now();
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
      const now = performance.now();
      if (now - lookedAt < lookAgainMs) return;
      lookedAt = now;
      const version = dataVersion.get();
      if (version === seenVersion) return;
      seenVersion = version;
      forget();
    },
  };
}

import type { Db } from "../store/open.ts";

/**
 * Keeps what `prepare` makes of a store for as long as the store is there: statements of paths that run thousands of
 * times a second, where building a query costs more than running it.
 */
export function prepareOnce<T>(prepare: (db: Db) => T): (db: Db) => T {
  const prepared = new WeakMap<Db, T>();
  return (db) => {
    let found = prepared.get(db);
    if (found === undefined) prepared.set(db, (found = prepare(db)));
    return found;
  };
}

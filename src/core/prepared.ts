import { fillPlaceholders } from "drizzle-orm";
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

/**
 * A query of Drizzle's, built once and run as it stands, without Drizzle: its rows are the columns in the order in which they
 * were selected. `values`: those of its placeholders.
 */
export function prepareQuery<Row extends unknown[]>(
  { $client }: Db,
  query: { toSQL(): { sql: string; params: unknown[] } },
): (values: Record<string, unknown>) => Row[] {
  const { sql, params } = query.toSQL();
  const statement = $client.prepare<unknown[], Row>(sql).raw();
  return (values) => statement.all(...fillPlaceholders(params, values));
}

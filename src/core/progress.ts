import { prepareOnce } from "./prepared.ts";
import type { Ctx } from "./ctx.ts";

// How far the background work has come. Readings' ids rise in the order of commits, so one number says what has been
// looked at and what has not.

const statements = prepareOnce(({ $client }) => ({
  read: $client.prepare<[name: string], number>("SELECT value FROM progress WHERE name = ?").pluck(),
  write: $client.prepare<[name: string, value: number]>("INSERT OR REPLACE INTO progress (name, value) VALUES (?, ?)"),
}));

/** `undefined` where the work of that name has not begun. */
export const readProgress = (ctx: Ctx, name: string): number | undefined => statements(ctx.db).read.get(name);

export const setProgress = (ctx: Ctx, name: string, value: number): void =>
  void statements(ctx.db).write.run(name, value);

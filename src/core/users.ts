import { count, eq, or, sql } from "drizzle-orm";
import { users } from "../store/schema.ts";
import { watchChanges } from "../store/watch.ts";
import type { Ctx } from "./ctx.ts";
import { DomainError } from "./errors.ts";
import { newUuid } from "./ids.ts";
import { prepareOnce } from "./prepared.ts";

export type User = typeof users.$inferSelect;

/**
 * Usernames compare case-folded in one Unicode form: `Ａlice`, `ALICE` and `alice` are one. By way of upper case, since
 * lower case alone keeps apart what folding does not: `ß` and `SS`, the two forms of the small sigma.
 */
export const foldName = (name: string): string => name.normalize("NFKC").toUpperCase().toLowerCase().normalize("NFKC");

/**
 * Adds an account. The first one is the administrator.
 * @throws {DomainError} `conflict` where the username or the email is taken.
 */
export function createUser(
  ctx: Ctx,
  input: { username: string; passwordHash: string; email?: string | undefined },
): User {
  const usernameKey = foldName(input.username);
  const emailKey = input.email === undefined ? null : foldName(input.email);
  // One namespace: either one logs in, so nobody may take somebody else's email for a username, or the reverse.
  if (findUserByLogin(ctx, usernameKey)) throw new DomainError("conflict", "username already exists");
  if (emailKey !== null && findUserByLogin(ctx, emailKey)) throw new DomainError("conflict", "email already exists");
  const user = {
    id: newUuid(),
    username: input.username,
    usernameKey,
    email: input.email ?? null,
    emailKey,
    passwordHash: input.passwordHash,
    role: countUsers(ctx) === 0 ? ("admin" as const) : ("member" as const),
    tokenVersion: 0,
    createdAt: ctx.now(),
  };
  ctx.db.insert(users).values(user).run();
  return user;
}

export const countUsers = (ctx: Ctx): number => ctx.db.select({ n: count() }).from(users).get()?.n ?? 0;

/** Finds an account by username or by email. */
export function findUserByLogin(ctx: Ctx, login: string): User | undefined {
  const key = foldName(login);
  return ctx.db
    .select()
    .from(users)
    .where(or(eq(users.usernameKey, key), eq(users.emailKey, key)))
    .get();
}

export const findUser = (ctx: Ctx, id: string): User | undefined =>
  ctx.db.select().from(users).where(eq(users.id, id)).get();

const maxKept = 1_000;

const keepUsers = prepareOnce(({ $client }) => {
  const kept = new Map<string, User>();
  const watch = watchChanges($client, ["UPDATE ON main.users", "DELETE ON main.users"], () => kept.clear());
  return { kept, watch };
});

/** {@link findUser} for every request that brings a token: from memory, as long as nobody changes. Not in transactions. */
export function findBearer(ctx: Ctx, id: string): User | undefined {
  const { kept, watch } = keepUsers(ctx.db);
  watch.refresh();
  let user = kept.get(id);
  if (user === undefined && (user = findUser(ctx, id)) !== undefined) {
    if (kept.size >= maxKept) kept.clear();
    kept.set(id, user);
  }
  return user;
}

/** Sets a new password; every token issued before is worthless from then on. */
export function changePassword(ctx: Ctx, id: string, passwordHash: string): void {
  ctx.db
    .update(users)
    .set({ passwordHash, tokenVersion: sql`${users.tokenVersion} + 1` })
    .where(eq(users.id, id))
    .run();
  ctx.emit("credentials.revoked", { kind: "user", id });
}

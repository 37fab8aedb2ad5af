import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { and, asc, count, eq } from "drizzle-orm";
import { apiKeys, users } from "../store/schema.ts";
import type { Actor, Ctx } from "./ctx.ts";
import { DomainError } from "./errors.ts";

// API keys: `lk_<id>_<secret>`. The secret is random and long, so a fast hash is enough to keep it.

export type ApiKey = typeof apiKeys.$inferSelect;

const prefix = "lk_";
/** `lastUsedAt` is kept to a minute: a key in use does not write at each request. */
const lastUsedResolutionMs = 60_000;

export const hashSecret = (secret: string): string => createHash("sha256").update(secret).digest("hex");

export const isSameHash = (a: string, b: string): boolean =>
  timingSafeEqual(Buffer.from(a, "hex"), Buffer.from(b, "hex"));

export const isApiKey = (token: string): boolean => token.startsWith(prefix);

/** @returns the key itself, which nobody can be shown again. @throws {DomainError} `conflict` past `maxPerUser` */
export function createApiKey(
  ctx: Ctx,
  userId: string,
  name: string,
  { maxPerUser }: { maxPerUser: number },
): { apiKey: ApiKey; key: string } {
  const owned = ctx.db.select({ n: count() }).from(apiKeys).where(eq(apiKeys.userId, userId)).get()?.n ?? 0;
  if (owned >= maxPerUser) throw new DomainError("conflict", `no more than ${maxPerUser} keys; delete one first`);
  const id = randomBytes(6).toString("hex");
  const key = `${prefix}${id}_${randomBytes(32).toString("base64url")}`;
  const apiKey = ctx.db
    .insert(apiKeys)
    .values({ id, userId, name, hash: hashSecret(key), createdAt: ctx.now() })
    .returning()
    .get();
  return { apiKey, key };
}

/** A user's keys, oldest first. */
export const listApiKeys = (ctx: Ctx, userId: string): ApiKey[] =>
  ctx.db
    .select()
    .from(apiKeys)
    .where(eq(apiKeys.userId, userId))
    .orderBy(asc(apiKeys.createdAt), asc(apiKeys.id))
    .all();

/** @throws {DomainError} `not_found`, for another user's key too */
export function deleteApiKey(ctx: Ctx, userId: string, id: string): void {
  const { changes } = ctx.db
    .delete(apiKeys)
    .where(and(eq(apiKeys.id, id), eq(apiKeys.userId, userId)))
    .run();
  if (changes === 0) throw new DomainError("not_found", "API key not found");
  ctx.emit("credentials.revoked", { kind: "key", id });
}

export interface KeyBearer {
  actor: Extract<Actor, { kind: "user" }>;
  keyId: string;
  /** Its use is to be noted: {@link noteKeyUse}. */
  isStale: boolean;
}

/** Whose key it is; `undefined` where it is nobody's. */
export function findKeyBearer(ctx: Ctx, key: string): KeyBearer | undefined {
  const id = key.slice(prefix.length).split("_", 1)[0] ?? "";
  const found = ctx.db
    .select({ key: apiKeys, user: users })
    .from(apiKeys)
    .innerJoin(users, eq(users.id, apiKeys.userId))
    .where(eq(apiKeys.id, id))
    .get();
  if (found === undefined || !isSameHash(found.key.hash, hashSecret(key))) return undefined;
  const { user } = found;
  return {
    actor: { kind: "user", id: user.id, username: user.username, role: user.role },
    keyId: id,
    isStale: Math.abs(ctx.now() - (found.key.lastUsedAt ?? 0)) >= lastUsedResolutionMs,
  };
}

export const noteKeyUse = (ctx: Ctx, id: string): void =>
  void ctx.db.update(apiKeys).set({ lastUsedAt: ctx.now() }).where(eq(apiKeys.id, id)).run();

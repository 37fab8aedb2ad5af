import { createHmac, randomBytes } from "node:crypto";
import { and, asc, count, eq, gt, inArray, lte, or, sql } from "drizzle-orm";
import { devices, purchases } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { DomainError } from "./errors.ts";
import { getAnyDevice, type Device } from "./devices.ts";
import { hashSecret } from "./keys.ts";
import { deviceColumns } from "./sightings.ts";
import { lastInstant } from "./time.ts";

// Data products: the right to read one device's data. What is bought is an entitlement on this gateway; no payment is
// taken. Money is counted in whole millionths of the currency's unit.

export interface Product {
  id: string;
  name: string;
  description?: string | undefined;
  currency: string;
  /** Per record that is read, or per month. In millionths. */
  priceMicros: number;
  type: "per_read" | "subscription";
  /** Only aggregates may be read. */
  isAggregatedOnly: boolean;
}

export type Purchase = typeof purchases.$inferSelect;

/** What the keys of purchases are made with, and of what products. */
export interface Shop {
  products: readonly Product[];
  secret: Uint8Array;
  /** Purchases that one user may have; beyond it one that is used up makes room. */
  maxPurchases: number;
}

const prefix = "ak_";

export const isAccessKey = (token: string): boolean => token.startsWith(prefix);

/** @throws {DomainError} `not_found` */
export function getProduct({ products }: Shop, id: string): Product {
  const product = products.find((candidate) => candidate.id === id);
  if (product === undefined) throw new DomainError("not_found", "product not found");
  return product;
}

/** The price of `quantity` reads or months, in millionths. @throws {DomainError} `invalid`: beyond what can be counted */
export function priceOf({ priceMicros }: Product, quantity: number): number {
  const total = priceMicros * quantity;
  if (!Number.isSafeInteger(total)) throw new DomainError("invalid", "quantity is too large");
  return total;
}

export function quotePrice(
  ctx: Ctx,
  shop: Shop,
  productId: string,
  deviceId: string,
  quantity: number,
): { product: Product; device: Device; totalMicros: number } {
  const product = getProduct(shop, productId);
  return { product, device: getAnyDevice(ctx, deviceId), totalMicros: priceOf(product, quantity) };
}

export interface PurchaseInput {
  productId: string;
  deviceId: string;
  quantity: number;
  userId: string;
  /** The same key again is the same purchase. */
  idempotencyKey?: string | undefined;
}

/**
 * Buys. The key is not kept: it follows from the purchase's id and the gateway's secret, so that the same request again
 * (`idempotencyKey`) gets the same answer.
 * @throws {DomainError} `not_found`; `conflict` where the idempotency key was used for something else, and past
 * `maxPurchases`
 */
export function buyProduct(ctx: Ctx, shop: Shop, input: PurchaseInput): { purchase: Purchase; accessKey: string } {
  const { product, device, totalMicros } = quotePrice(ctx, shop, input.productId, input.deviceId, input.quantity);
  const known = findRepeated(ctx, input);
  if (known !== undefined) {
    if (known.productId !== product.id || known.devicePk !== device.pk || known.quantity !== input.quantity) {
      throw new DomainError("conflict", "this Idempotency-Key was used for another purchase");
    }
    return { purchase: known, accessKey: deriveKey(shop, known.id) };
  }
  makeRoom(ctx, input.userId, shop);
  const id = `purc_${randomBytes(12).toString("hex")}`;
  const accessKey = deriveKey(shop, id);
  const now = ctx.now();
  const purchase = ctx.db
    .insert(purchases)
    .values({
      id,
      productId: product.id,
      userId: input.userId,
      devicePk: device.pk,
      quantity: input.quantity,
      totalMicros,
      currency: product.currency,
      keyHash: hashSecret(accessKey),
      remaining: product.type === "per_read" ? input.quantity : null,
      expiresAt: product.type === "subscription" ? addMonths(now, input.quantity) : null,
      isAggregatedOnly: product.isAggregatedOnly,
      idempotencyKey: input.idempotencyKey ?? null,
      createdAt: now,
    })
    .returning()
    .get();
  return { purchase, accessKey };
}

/** The oldest purchase that is used up goes where there are too many. @throws {DomainError} `conflict` where none is */
function makeRoom(ctx: Ctx, userId: string, { maxPurchases }: Shop): void {
  const owned = ctx.db.select({ n: count() }).from(purchases).where(eq(purchases.userId, userId)).get()?.n ?? 0;
  if (owned < maxPurchases) return;
  const usedUp = ctx.db
    .select({ id: purchases.id })
    .from(purchases)
    .where(and(eq(purchases.userId, userId), or(eq(purchases.remaining, 0), lte(purchases.expiresAt, ctx.now()))))
    .orderBy(asc(purchases.createdAt), asc(purchases.id))
    .limit(1);
  const { changes } = ctx.db.delete(purchases).where(inArray(purchases.id, usedUp)).run();
  if (changes === 0)
    throw new DomainError("conflict", `no more than ${maxPurchases} purchases; use one up or let it expire first`);
}

const findRepeated = (ctx: Ctx, { userId, idempotencyKey }: PurchaseInput): Purchase | undefined =>
  idempotencyKey === undefined
    ? undefined
    : ctx.db
        .select()
        .from(purchases)
        .where(and(eq(purchases.userId, userId), eq(purchases.idempotencyKey, idempotencyKey)))
        .get();

const deriveKey = ({ secret }: Shop, purchaseId: string): string =>
  prefix + createHmac("sha256", secret).update(`access-key:${purchaseId}`).digest("base64url");

/** The same day so many months on, or the last day of a month that is shorter. */
function addMonths(at: number, months: number): number {
  const date = new Date(at);
  const day = date.getUTCDate();
  date.setUTCDate(1);
  date.setUTCMonth(date.getUTCMonth() + months);
  const lastDay = new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 0)).getUTCDate();
  date.setUTCDate(Math.min(day, lastDay));
  if (!(date.getTime() <= lastInstant)) throw new DomainError("invalid", "quantity is too large");
  return date.getTime();
}

export type PurchaseStatus = "active" | "expired" | "exhausted";

export function purchaseStatus({ remaining, expiresAt }: Purchase, now: number): PurchaseStatus {
  if (expiresAt !== null && expiresAt <= now) return "expired";
  return remaining === 0 ? "exhausted" : "active";
}

/** What a user has bought of a product, oldest first. @throws {DomainError} `not_found`; `forbidden` where nothing was bought */
export function listAccess(
  ctx: Ctx,
  shop: Shop,
  productId: string,
  userId: string,
): { purchase: Purchase; device: Device }[] {
  getProduct(shop, productId);
  const bought = ctx.db
    .select({ purchase: purchases, device: deviceColumns })
    .from(purchases)
    .innerJoin(devices, eq(devices.pk, purchases.devicePk))
    .where(and(eq(purchases.productId, productId), eq(purchases.userId, userId)))
    .orderBy(asc(purchases.createdAt), asc(purchases.id))
    .all();
  if (bought.length === 0) throw new DomainError("forbidden", "nothing of this product was bought");
  return bought;
}

/** The purchase that an access key belongs to; `undefined` where it is none. */
export const findPurchase = (ctx: Ctx, accessKey: string): Purchase | undefined =>
  ctx.db
    .select()
    .from(purchases)
    .where(eq(purchases.keyHash, hashSecret(accessKey)))
    .get();

/**
 * Whether a purchase lets its bearer read this.
 * @throws {DomainError} `forbidden`: another device, raw data where only aggregates were bought, expired; `quota_exceeded`
 * @returns how many records may be read at most
 */
export function requireAccess(
  ctx: Ctx,
  purchaseId: string,
  devicePk: number,
  { isAggregate }: { isAggregate: boolean },
): number {
  const purchase = ctx.db.select().from(purchases).where(eq(purchases.id, purchaseId)).get();
  if (purchase === undefined || purchase.devicePk !== devicePk)
    throw new DomainError("forbidden", "this access key is for another device");
  const status = purchaseStatus(purchase, ctx.now());
  if (status === "exhausted") throw new DomainError("quota_exceeded", "all records that were bought have been read");
  if (status === "expired") throw new DomainError("forbidden", "this access has expired");
  if (purchase.isAggregatedOnly && !isAggregate)
    throw new DomainError("forbidden", "this product gives aggregates only: use aggregation=");
  return purchase.remaining ?? Number.MAX_SAFE_INTEGER;
}

/** Counts records that were read off a purchase. Runs in the transaction of {@link requireAccess}: nobody comes between. */
export function spendRecords(ctx: Ctx, purchaseId: string, records: number): void {
  if (records === 0) return;
  ctx.db
    .update(purchases)
    .set({ remaining: sql`${purchases.remaining} - ${records}` })
    .where(and(eq(purchases.id, purchaseId), gt(purchases.remaining, 0)))
    .run();
}

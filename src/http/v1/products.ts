import * as v from "valibot";
import { buyProduct, listAccess, purchaseStatus, quotePrice, type Product, type Shop } from "../../core/products.ts";
import { displayIdOf } from "../../core/devices.ts";
import { DomainError } from "../../core/errors.ts";
import { label, parsed } from "../../core/schemas.ts";
import { formatInstant } from "../../core/time.ts";
import { route } from "../route.ts";
import { userOf } from "./auth.ts";
import { quantity, timestamp } from "./shapes.ts";

const tag = "Products";

const params = v.object({ productId: label(64) });

const money = v.number();

const productSchema = v.object({
  id: v.string(),
  name: v.string(),
  type: v.picklist(["per_read", "subscription"]),
  price: v.object({ perUnit: v.optional(money), monthlyFee: v.optional(money), currency: v.string() }),
  description: v.optional(v.string()),
});

/** Millionths as the decimal number they are: both are whole numbers until this one division. */
const toMoney = (micros: number): number => micros / 1_000_000;

const toProduct = ({ id, name, type, priceMicros, currency, description }: Product) => ({
  id,
  name,
  type,
  price: { [type === "per_read" ? "perUnit" : "monthlyFee"]: toMoney(priceMicros), currency },
  ...(description !== undefined && { description }),
});

const quantityQuery = parsed(
  (digits) => (/^[1-9]\d{0,9}$/.test(digits) && Number(digits) <= 1_000_000_000 ? Number(digits) : undefined),
  "must be an integer from 1 to 1000000000",
  {
    type: "integer",
    minimum: 1,
    maximum: 1_000_000_000,
    default: 1,
  },
);

/** 1 to 255 visible characters (draft-ietf-httpapi-idempotency-key-header). */
function readIdempotencyKey(header: string | undefined): string | undefined {
  if (header !== undefined && !/^[\x21-\x7e]{1,255}$/.test(header))
    throw new DomainError("invalid", "Idempotency-Key must be 1 to 255 visible characters");
  return header;
}

export const productRoutes = ({ shop }: { shop: Shop }) => [
  route({
    method: "get",
    path: "/products",
    tag,
    summary: "List available data products",
    status: 200,
    response: v.object({ products: v.array(productSchema) }),
    handle: () => ({ products: shop.products.map(toProduct) }),
  }),
  route({
    method: "get",
    path: "/products/:productId/price",
    tag,
    summary: "Calculate the price of a data product",
    description: "`quantity` counts reads, or months of a subscription.",
    params,
    query: v.object({ deviceId: label(64), quantity: v.optional(quantityQuery, "1") }),
    status: 200,
    response: v.object({
      productId: v.string(),
      deviceId: v.string(),
      quantity: v.number(),
      total: money,
      currency: v.string(),
    }),
    errors: { 404: "NOT_FOUND" },
    handle({ read }, { params: { productId }, query: { deviceId, quantity: wanted } }) {
      const { product, device, totalMicros } = read((ctx) => quotePrice(ctx, shop, productId, deviceId, wanted));
      return {
        productId,
        deviceId: displayIdOf(device),
        quantity: wanted,
        total: toMoney(totalMicros),
        currency: product.currency,
      };
    },
  }),
  route({
    method: "post",
    path: "/products/:productId/purchase",
    tag,
    summary: "Purchase access to a device's data",
    description:
      "An entitlement on this gateway: no payment is taken. `accessKey` is shown this once; it reads that device's data and nothing else. The same `Idempotency-Key` again gets the same answer.",
    params,
    headers: v.object({
      "Idempotency-Key": v.optional(v.pipe(label(255), v.description("Visible characters; one for each purchase"))),
    }),
    body: v.object({ deviceId: label(64), quantity: v.optional(quantity, 1) }),
    status: 201,
    response: v.object({
      purchaseId: v.string(),
      productId: v.string(),
      status: v.literal("completed"),
      total: money,
      currency: v.string(),
      accessKey: v.string(),
    }),
    errors: {
      404: "NOT_FOUND",
      409: "CONFLICT: the Idempotency-Key was used for something else, or there are too many purchases",
    },
    async handle({ actor, commit, header }, { params: { productId }, body: { deviceId, quantity: bought } }) {
      const idempotencyKey = readIdempotencyKey(header("Idempotency-Key"));
      const { id: userId } = userOf(actor);
      const { purchase, accessKey } = await commit((ctx) =>
        buyProduct(ctx, shop, { productId, deviceId, quantity: bought, userId, idempotencyKey }),
      );
      return {
        purchaseId: purchase.id,
        productId: purchase.productId,
        status: "completed",
        total: toMoney(purchase.totalMicros),
        currency: purchase.currency,
        accessKey,
      } as const;
    },
  }),
  route({
    method: "get",
    path: "/products/:productId/access",
    tag,
    summary: "Get access endpoints for a purchased product",
    params,
    status: 200,
    response: v.object({
      access: v.array(
        v.object({
          purchaseId: v.string(),
          deviceId: v.string(),
          status: v.picklist(["active", "expired", "exhausted"]),
          remaining: v.nullable(v.number()),
          expiresAt: v.nullable(timestamp),
          endpoints: v.array(v.string()),
        }),
      ),
    }),
    errors: { 403: "FORBIDDEN: nothing of it was bought", 404: "NOT_FOUND" },
    handle({ actor, read }, { params: { productId } }) {
      return read((ctx) => ({
        access: listAccess(ctx, shop, productId, userOf(actor).id).map(({ purchase, device }) => ({
          purchaseId: purchase.id,
          deviceId: displayIdOf(device),
          status: purchaseStatus(purchase, ctx.now()),
          remaining: purchase.remaining,
          expiresAt: purchase.expiresAt === null ? null : formatInstant(purchase.expiresAt),
          endpoints: [
            `/v1/data/${encodeURIComponent(displayIdOf(device))}${purchase.isAggregatedOnly ? "?aggregation=avg" : ""}`,
          ],
        })),
      }));
    },
  }),
];

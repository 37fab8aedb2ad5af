import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createApi, logIn, type Answer, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// The products, their purchase, and what the access keys of a purchase open.

const env = { LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000" };
const start = Date.parse("2026-01-31T10:00:00Z");
let clock = start;

let gateway: LocalGateway;
let api: Api;
let member: Api;

beforeAll(async () => {
  gateway = await startLocalGateway({ env, now: () => clock });
  api = await logIn(gateway.url);
  member = await logIn(gateway.url, "member");
  await api("POST", "/v1/devices", { id: "SC-TEMP-001", name: "Living Room Temperature", type: "temperature" });
  await api("POST", "/v1/devices", { id: "other", name: "Other", type: "temperature" });
  const points = Array.from({ length: 300 }, (_, i) => ({ timestamp: at(-i), value: i, unit: "°C" }));
  for (const id of ["SC-TEMP-001", "other"]) await api("POST", `/v1/data/${id}`, points);
});
afterAll(() => gateway.close());
afterEach(() => {
  clock = start;
});

const at = (offsetSeconds: number): string =>
  new Date(start + offsetSeconds * 1_000).toISOString().replace(".000Z", "Z");
const shown = ({ status, body }: Answer) => ({ status, body });
const error = (status: number, code: string, details: unknown = expect.any(Object)) => ({
  status,
  body: { error: { code, message: expect.any(String), details } },
});
const invalid = (field: string) => error(400, "VALIDATION_ERROR", { field });

const buy = (body: object = {}, product = "prod_raw_streams", headers = {}, buyer = api): Promise<Answer> =>
  buyer("POST", `/v1/products/${product}/purchase`, { deviceId: "SC-TEMP-001", ...body }, headers);
/** A client that has nothing but the access key of a new purchase. */
const buyKey = async (body: object = {}, product?: string): Promise<Api> =>
  createApi(gateway.url, (await buy(body, product)).body.accessKey);
const data = "/v1/data/SC-TEMP-001";

describe("the document's samples", () => {
  test("of the products, with their prices", async () => {
    expect(shown(await api("GET", "/v1/products"))).toEqual({
      status: 200,
      body: {
        products: [
          {
            id: "prod_raw_streams",
            name: "Raw Data Streams",
            type: "per_read",
            price: { perUnit: 0.001, currency: "USD" },
            description: "Access raw sensor data in real-time",
          },
          {
            id: "prod_aggregated",
            name: "Aggregated Metrics",
            type: "subscription",
            price: { monthlyFee: 99, currency: "USD" },
          },
        ],
      },
    });
  });

  test("of a purchase: 10,000 reads are 10.00 USD", async () => {
    expect(shown(await buy({ quantity: 10_000 }))).toEqual({
      status: 201,
      body: {
        purchaseId: expect.stringMatching(/^purc_\w+$/),
        productId: "prod_raw_streams",
        status: "completed",
        total: 10,
        currency: "USD",
        accessKey: expect.stringMatching(/^ak_[\w-]{20,}$/),
      },
    });
  });
});

describe("GET /v1/products/{productId}/price", () => {
  test.each([
    ["prod_raw_streams", "", 1, 0.001],
    ["prod_raw_streams", "&quantity=1", 1, 0.001],
    ["prod_raw_streams", "&quantity=3", 3, 0.003],
    ["prod_raw_streams", "&quantity=9", 9, 0.009],
    ["prod_raw_streams", "&quantity=1001", 1_001, 1.001],
    ["prod_raw_streams", "&quantity=123456789", 123_456_789, 123_456.789],
    ["prod_raw_streams", "&quantity=1000000000", 1_000_000_000, 1_000_000],
    ["prod_aggregated", "", 1, 99],
    ["prod_aggregated", "&quantity=12", 12, 1_188],
  ])("of %s with %s is exact", async (product, query, quantity, total) => {
    const answer = await api("GET", `/v1/products/${product}/price?deviceId=SC-TEMP-001${query}`);
    expect(shown(answer)).toEqual({
      status: 200,
      body: { productId: product, deviceId: "SC-TEMP-001", quantity, total, currency: "USD" },
    });
  });

  test.each([
    ["", "deviceId"],
    ["?deviceId=", "deviceId"],
    ["?deviceId=SC-TEMP-001&quantity=0", "quantity"],
    ["?deviceId=SC-TEMP-001&quantity=-1", "quantity"],
    ["?deviceId=SC-TEMP-001&quantity=1.5", "quantity"],
    ["?deviceId=SC-TEMP-001&quantity=1000000001", "quantity"],
    ["?deviceId=SC-TEMP-001&quantity=ten", "quantity"],
  ])("answers 400 to %s", async (query, field) => {
    expect(shown(await api("GET", `/v1/products/prod_raw_streams/price${query}`))).toEqual(invalid(field));
  });

  test("answers 404 to a product or a device that is not there", async () => {
    for (const path of ["prod_nothing/price?deviceId=SC-TEMP-001", "prod_raw_streams/price?deviceId=nobody"])
      expect(shown(await api("GET", `/v1/products/${path}`))).toEqual(error(404, "NOT_FOUND", {}));
  });
});

describe("POST /v1/products/{productId}/purchase", () => {
  test("buys one read, or one month, where no quantity is given", async () => {
    expect((await buy()).body).toMatchObject({ total: 0.001, currency: "USD" });
    expect((await buy({}, "prod_aggregated")).body).toMatchObject({ total: 99, productId: "prod_aggregated" });
  });

  test.each([
    ["no device", { deviceId: undefined }, "deviceId"],
    ["a device that is a number", { deviceId: 5 }, "deviceId"],
    ["a quantity of 0", { quantity: 0 }, "quantity"],
    ["half a read", { quantity: 0.5 }, "quantity"],
    ["a quantity in letters", { quantity: "10" }, "quantity"],
    ["a quantity beyond a thousand million", { quantity: 1e9 + 1 }, "quantity"],
    ["a quantity without end", '{"deviceId":"SC-TEMP-001","quantity":1e999}', "quantity"],
  ])("answers 400 to %s", async (_, body, field) => {
    const text = typeof body === "string" ? body : JSON.stringify({ deviceId: "SC-TEMP-001", ...body });
    expect(shown(await api("POST", "/v1/products/prod_raw_streams/purchase", text))).toEqual(invalid(field));
  });

  test("answers 400 to a subscription that would outlast the calendar", async () => {
    for (const quantity of [100_000, 1_000_000, 1_000_000_000])
      expect(shown(await buy({ quantity }, "prod_aggregated"))).toEqual(error(400, "VALIDATION_ERROR", {}));
    expect((await buy({ quantity: 1_200 }, "prod_aggregated")).status).toBe(201);
  });

  test("answers 404 to a product or a device that is not there", async () => {
    expect(shown(await buy({}, "prod_nothing"))).toEqual(error(404, "NOT_FOUND", {}));
    expect(shown(await buy({ deviceId: "nobody" }))).toEqual(error(404, "NOT_FOUND", {}));
  });

  describe("with an Idempotency-Key", () => {
    const key = (text: string) => ({ "Idempotency-Key": text });

    test("answers the same again, the access key too, and buys once", async () => {
      const first = await buy({ quantity: 5 }, undefined, key("once"), member);
      expect(first.status).toBe(201);
      for (let i = 0; i < 2; i++)
        expect(shown(await buy({ quantity: 5 }, undefined, key("once"), member))).toEqual(shown(first));
      const { access } = (await member("GET", "/v1/products/prod_raw_streams/access")).body;
      expect(access).toMatchObject([{ purchaseId: first.body.purchaseId, remaining: 5 }]);
      // What was read meanwhile stays read.
      const reader = createApi(gateway.url, first.body.accessKey);
      await reader("GET", `${data}?limit=2`);
      expect((await buy({ quantity: 5 }, undefined, key("once"), member)).body).toEqual(first.body);
      expect((await reader("GET", data)).body.data).toHaveLength(3);
    });

    test("buys once where ten requests bring it at the same moment", async () => {
      const answers = await Promise.all(Array.from({ length: 10 }, () => buy({}, undefined, key("ten"))));
      expect(new Set(answers.map(({ status, body }) => `${status} ${body.purchaseId} ${body.accessKey}`)).size).toBe(1);
    });

    test("answers 409 CONFLICT where it was used for something else", async () => {
      expect((await buy({ quantity: 5 }, undefined, key("taken"))).status).toBe(201);
      const others = [
        buy({ quantity: 6 }, undefined, key("taken")),
        buy({ quantity: 5, deviceId: "other" }, undefined, key("taken")),
        buy({ quantity: 5 }, "prod_aggregated", key("taken")),
      ];
      for (const other of others) expect(shown(await other)).toEqual(error(409, "CONFLICT", {}));
    });

    test("is each user's own", async () => {
      const mine = await buy({}, undefined, key("mine"));
      const theirs = await buy({ quantity: 7 }, undefined, key("mine"), member);
      expect(theirs.status).toBe(201);
      expect(theirs.body.accessKey).not.toBe(mine.body.accessKey);
    });

    test("answers 400 to one that is empty, blank within, or longer than 255 characters", async () => {
      for (const text of ["", "a b", "k".repeat(256), "\u00e9"])
        expect(shown(await buy({}, undefined, key(text)))).toEqual(error(400, "VALIDATION_ERROR", {}));
      expect((await buy({}, undefined, key("k".repeat(255)))).status).toBe(201);
    });
  });
});

describe("GET /v1/products/{productId}/access", () => {
  let owner: Api;
  beforeAll(async () => {
    owner = await logIn(gateway.url, "owner");
  });

  test("is 403 FORBIDDEN where nothing was bought, and 404 where there is no such product", async () => {
    expect(shown(await owner("GET", "/v1/products/prod_raw_streams/access"))).toEqual(error(403, "FORBIDDEN", {}));
    expect(shown(await owner("GET", "/v1/products/prod_nothing/access"))).toEqual(error(404, "NOT_FOUND", {}));
  });

  test("lists one's own purchases, their endpoints, and what is left of them", async () => {
    const reads = (await buy({ quantity: 3 }, undefined, {}, owner)).body;
    const one = (await buy({ quantity: 1, deviceId: "other" }, undefined, {}, owner)).body;
    const reader = createApi(gateway.url, reads.accessKey);
    await reader("GET", `${data}?limit=2`);
    await createApi(gateway.url, one.accessKey)("GET", "/v1/data/other");
    const { status, body } = await owner("GET", "/v1/products/prod_raw_streams/access");
    const common = { expiresAt: null, deviceId: "SC-TEMP-001" };
    expect(status).toBe(200);
    expect(body).toEqual({
      access: expect.toSatisfy((list: unknown[]) => list.length === 2),
    });
    expect(body.access).toEqual(
      expect.arrayContaining([
        { ...common, purchaseId: reads.purchaseId, status: "active", remaining: 1, endpoints: [data] },
        {
          ...common,
          purchaseId: one.purchaseId,
          deviceId: "other",
          status: "exhausted",
          remaining: 0,
          endpoints: ["/v1/data/other"],
        },
      ]),
    );
    expect(JSON.stringify(body)).not.toContain("ak_");
  });

  test("shows a subscription until it ends, and its endpoint works as it is written", async () => {
    const { body } = await buy({ quantity: 1 }, "prod_aggregated", {}, owner);
    const list = async () => (await owner("GET", "/v1/products/prod_aggregated/access")).body.access;
    const [shownNow] = await list();
    expect(shownNow).toEqual({
      purchaseId: body.purchaseId,
      deviceId: "SC-TEMP-001",
      status: "active",
      remaining: null,
      expiresAt: "2026-02-28T10:00:00Z", // a month from 31 January
      endpoints: [`${data}?aggregation=avg`],
    });
    const answer = await createApi(gateway.url, body.accessKey)("GET", shownNow.endpoints[0]);
    expect(answer.body.data).toMatchObject([{ count: 300, unit: "°C" }]);
    clock = Date.parse("2026-02-28T10:00:00Z");
    // Tokens last a day: the owner logs in anew.
    const { body: login } = await createApi(gateway.url)("POST", "/login", {
      username: "owner",
      password: "secret123",
    });
    const later = createApi(gateway.url, login.token);
    expect((await later("GET", "/v1/products/prod_aggregated/access")).body.access).toMatchObject([
      { status: "expired" },
    ]);
  });
});

describe("an access key", () => {
  test("reads its one device, as Authorization: Bearer and as X-API-Key, by either of the device's ids", async () => {
    const { accessKey } = (await buy({ quantity: 3 })).body;
    const { uuid } = (await api("GET", "/v1/devices/SC-TEMP-001")).body;
    const anybody = createApi(gateway.url);
    const newest = { deviceId: "SC-TEMP-001", data: [{ timestamp: at(0), value: 0, unit: "°C" }], total: 300 };
    const bearer = { Authorization: `Bearer ${accessKey}` };
    expect((await anybody("GET", `${data}?limit=1`, undefined, bearer)).body).toEqual(newest);
    expect((await anybody("GET", `${data}?limit=1`, undefined, { "X-API-Key": accessKey })).body).toEqual(newest);
    expect((await anybody("GET", `/v1/data/${uuid}?limit=1`, undefined, bearer)).body).toEqual(newest);
  });

  test("reads no other device, and is not charged for trying", async () => {
    const reader = await buyKey({ quantity: 2 });
    expect(shown(await reader("GET", "/v1/data/other"))).toEqual(error(403, "FORBIDDEN", {}));
    expect(shown(await reader("GET", "/v1/data/nobody"))).toEqual(error(404, "NOT_FOUND", {}));
    expect((await reader("GET", `${data}?limit=bad`)).status).toBe(400);
    expect((await reader("GET", data)).body.data).toHaveLength(2);
  });

  test("is not charged for a HEAD, which brings no records", async () => {
    const { accessKey } = (await buy({ quantity: 2 })).body;
    const head = () => fetch(gateway.url + data, { method: "HEAD", headers: { Authorization: `Bearer ${accessKey}` } });
    for (let i = 0; i < 3; i++) expect((await head()).status).toBe(200);
    const reader = createApi(gateway.url, accessKey);
    expect((await reader("GET", data)).body.data).toHaveLength(2);
    expect((await reader("GET", data)).status).toBe(403);
    expect((await head()).status).toBe(403);
  });

  test("runs out after exactly what was bought: a page is cut to what is left, then 403 QUOTA_EXCEEDED", async () => {
    const reader = await buyKey({ quantity: 250 });
    const lengths: number[] = [];
    for (let i = 0; i < 3; i++) lengths.push((await reader("GET", data)).body.data.length);
    expect(lengths).toEqual([100, 100, 50]);
    const exceeded = error(403, "QUOTA_EXCEEDED", {});
    expect(shown(await reader("GET", data))).toEqual(exceeded);
    expect(shown(await reader("GET", `${data}?limit=0`))).toEqual(exceeded);
    expect(shown(await reader("GET", `${data}?aggregation=count`))).toEqual(exceeded);
    expect((await api("GET", data)).status).toBe(200); // others read on
  });

  test("counts off what is returned: nothing for an empty page, one for an aggregate, each bucket of a series", async () => {
    const { accessKey, purchaseId: bought } = (await buy({ quantity: 5 })).body;
    const reader = createApi(gateway.url, accessKey);
    const left = async () =>
      (await api("GET", "/v1/products/prod_raw_streams/access")).body.access.find(
        ({ purchaseId }: { purchaseId: string }) => purchaseId === bought,
      ).remaining;
    expect((await reader("GET", `${data}?to=2000-01-01T00:00:00Z`)).body).toMatchObject({ data: [], total: 0 });
    expect((await reader("GET", `${data}?limit=0`)).body.data).toEqual([]);
    const first = await left();
    await reader("GET", `${data}?aggregation=avg`);
    const second = await left();
    const series = await reader("GET", `${data}?aggregation=avg&interval=1m`);
    expect([first, second, await left()]).toEqual([5, 4, 0]);
    expect(series.body.data).toHaveLength(4);
    expect((await reader("GET", data)).status).toBe(403);
  });

  test.each([2, 10])("cannot be overspent by %d readers at once", async (readers) => {
    const reader = await buyKey({ quantity: 95 });
    const answers = await Promise.all(
      Array.from({ length: readers * 10 }, (_, i) => reader("GET", `${data}?limit=${7 + (i % readers)}`)),
    );
    const read = answers.filter(({ status }) => status === 200).map(({ body }) => body.data.length);
    expect(read.reduce((sum, n) => sum + n, 0)).toBe(95);
    for (const answer of answers.filter(({ status }) => status !== 200))
      expect(shown(answer)).toEqual(error(403, "QUOTA_EXCEEDED", {}));
    expect((await reader("GET", data)).status).toBe(403);
  });

  test("of a subscription reads until its months are over, and not a millisecond longer", async () => {
    const reader = await buyKey({ quantity: 13 }, "prod_aggregated");
    const end = Date.parse("2027-02-28T10:00:00Z");
    for (let i = 0; i < 20; i++) expect((await reader("GET", `${data}?aggregation=max`)).status).toBe(200);
    clock = end - 1;
    expect((await reader("GET", `${data}?aggregation=max`)).status).toBe(200);
    clock = end;
    expect(shown(await reader("GET", `${data}?aggregation=max`))).toEqual(error(403, "FORBIDDEN", {}));
  });

  test("of prod_aggregated reads aggregates and nothing raw", async () => {
    const reader = await buyKey({}, "prod_aggregated");
    for (const query of ["", "?limit=1", "?from=2026-01-01T00:00:00Z"])
      expect(shown(await reader("GET", data + query))).toEqual(error(403, "FORBIDDEN", {}));
    for (const query of ["?aggregation=avg", "?aggregation=count", "?aggregation=sum&interval=1h"])
      expect((await reader("GET", data + query)).status).toBe(200);
  });

  test("does not write, not even to its own device", async () => {
    const reader = await buyKey({ quantity: 5 });
    const point = { timestamp: at(0), value: 99 };
    expect(shown(await reader("POST", data, point))).toEqual(error(403, "FORBIDDEN", {}));
    expect((await api("GET", `${data}?limit=1`)).body).toMatchObject({ data: [{ value: 0 }], total: 300 });
  });

  test("is worth nothing with a character changed, and nothing at the root", async () => {
    const { accessKey } = (await buy()).body;
    const flipped = accessKey.slice(0, -2) + (accessKey.at(-2) === "A" ? "B" : "A") + accessKey.at(-1);
    expect(shown(await createApi(gateway.url, flipped)("GET", data))).toEqual(error(401, "INVALID_TOKEN", {}));
    expect(shown(await createApi(gateway.url, "ak_")("GET", data))).toEqual(error(401, "INVALID_TOKEN", {}));
    expect((await createApi(gateway.url, accessKey)("GET", "/sensor-readings")).status).toBe(403);
  });

  test("ends with its device", async () => {
    await api("POST", "/v1/devices", { id: "short-lived", name: "n", type: "t" });
    const reader = await buyKey({ deviceId: "short-lived" });
    expect((await reader("GET", "/v1/data/short-lived")).status).toBe(200);
    await api("DELETE", "/v1/devices/short-lived");
    await api("POST", "/v1/devices", { id: "short-lived", name: "n", type: "t" });
    expect(shown(await reader("GET", "/v1/data/short-lived"))).toEqual(error(401, "INVALID_TOKEN", {}));
  });
});

describe("products of one's own (products.catalog)", () => {
  const catalog = [
    { id: "a.reads", name: "Reads", type: "per_read", price: 0.1, currency: "EUR", description: "Ten cents" },
    { id: "b-month", name: "Month", type: "subscription", price: 4.99 },
    { id: "c_free", name: "Free", type: "per_read", price: 0, access: "aggregated" },
    { id: "d_dear", name: "Dear", type: "per_read", price: 999_999.999999 },
  ];
  let shop: LocalGateway;
  let buyer: Api;
  beforeEach(async () => {
    shop = await startLocalGateway({ env: { ...env, LAMBDAIOT_PRODUCTS_CATALOG: JSON.stringify(catalog) } });
    buyer = await logIn(shop.url);
    await buyer("POST", "/v1/devices", { id: "dev", name: "n", type: "t" });
  });
  afterEach(() => shop.close());

  test("are listed, priced without rounding, and bought instead of the document's", async () => {
    expect((await buyer("GET", "/v1/products")).body.products).toEqual([
      {
        id: "a.reads",
        name: "Reads",
        type: "per_read",
        price: { perUnit: 0.1, currency: "EUR" },
        description: "Ten cents",
      },
      { id: "b-month", name: "Month", type: "subscription", price: { monthlyFee: 4.99, currency: "USD" } },
      { id: "c_free", name: "Free", type: "per_read", price: { perUnit: 0, currency: "USD" } },
      { id: "d_dear", name: "Dear", type: "per_read", price: { perUnit: 999_999.999999, currency: "USD" } },
    ]);
    const price = async (id: string, quantity: number) =>
      (await buyer("GET", `/v1/products/${id}/price?deviceId=dev&quantity=${quantity}`)).body.total;
    expect(await price("a.reads", 3)).toBe(0.3); // 0.1 + 0.1 + 0.1 is not, in doubles
    expect(await price("b-month", 3)).toBe(14.97);
    expect(await price("c_free", 1_000)).toBe(0);
    expect(await price("d_dear", 9_007)).toBe(9_006_999_999.990993);
    const dear = await buyer("GET", "/v1/products/d_dear/price?deviceId=dev&quantity=9008");
    expect(shown(dear)).toEqual(error(400, "VALIDATION_ERROR", {})); // beyond what can be counted exactly
    const bought = await buyer("POST", "/v1/products/c_free/purchase", { deviceId: "dev", quantity: 2 });
    expect(bought.body).toMatchObject({ total: 0, currency: "USD", status: "completed" });
    const reader = createApi(shop.url, bought.body.accessKey);
    expect((await reader("GET", "/v1/data/dev")).status).toBe(403); // access = "aggregated"
    expect((await reader("GET", "/v1/data/dev?aggregation=count")).status).toBe(200);
    expect((await buyer("GET", "/v1/products/prod_raw_streams/access")).status).toBe(404);
  });
});

describe("products.max_purchases", () => {
  test("is what one user may have; the oldest that is used up makes room", async () => {
    const small = await startLocalGateway({ env: { ...env, LAMBDAIOT_PRODUCTS_MAX_PURCHASES: "2" }, now: () => clock });
    try {
      const [first, second] = [await logIn(small.url), await logIn(small.url, "second")];
      await first("POST", "/v1/devices", { id: "d", name: "D", type: "t" });
      await first("POST", "/v1/data/d", { timestamp: at(0), value: 1 });
      const order = (buyer: Api, product = "prod_raw_streams", headers = {}) =>
        buyer("POST", `/v1/products/${product}/purchase`, { deviceId: "d", quantity: 1 }, headers);
      const bought = await order(first, "prod_raw_streams", { "Idempotency-Key": "one" });
      expect((await order(first, "prod_aggregated")).status).toBe(201);
      expect(shown(await order(first))).toEqual(error(409, "CONFLICT", {}));
      expect((await order(first, "prod_raw_streams", { "Idempotency-Key": "one" })).body).toEqual(bought.body);
      expect((await order(second)).status).toBe(201);

      await createApi(small.url, bought.body.accessKey)("GET", "/v1/data/d");
      const next = await order(first);
      expect(next.status).toBe(201);
      expect((await first("GET", "/v1/products/prod_raw_streams/access")).body.access).toMatchObject([
        { purchaseId: next.body.purchaseId },
      ]);
      expect((await order(first)).status).toBe(409);
      expect((await second("GET", "/v1/products/prod_raw_streams/access")).body.access).toHaveLength(1);
    } finally {
      await small.close();
    }
  });
});

import { afterAll, beforeAll, expect, test } from "vitest";
import { createHttpApp, type HttpOptions } from "../../src/http/server.ts";
import { createApi, logIn, type Answer, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// Every operation of /v1 that the running gateway has, called by everybody who might: nobody, a member, a member's API
// key, the access key of a purchase, an administrator. Who may do what stands here by hand.

const may = {
  everybody: ["POST /v1/auth/login"],
  users: [
    "PUT /v1/auth/password",
    "GET /v1/api-keys",
    "POST /v1/api-keys",
    "DELETE /v1/api-keys/{keyId}",
    "GET /v1/devices",
    "POST /v1/devices",
    "GET /v1/devices/{deviceId}",
    "PUT /v1/devices/{deviceId}",
    "DELETE /v1/devices/{deviceId}",
    "POST /v1/data/{deviceId}",
    "GET /v1/products",
    "GET /v1/products/{productId}/price",
    "POST /v1/products/{productId}/purchase",
    "GET /v1/products/{productId}/access",
    "GET /v1/health",
    "GET /v1/health/database",
    "GET /v1/health/mqtt",
    "GET /v1/alerts",
    "GET /v1/alerts/rules",
    "POST /v1/alerts/rules",
    "PUT /v1/alerts/rules/{ruleId}",
    "DELETE /v1/alerts/rules/{ruleId}",
    "GET /v1/live",
  ],
  usersAndBuyers: ["GET /v1/data/{deviceId}"],
  administrators: [
    "POST /v1/webhooks",
    "GET /v1/webhooks",
    "DELETE /v1/webhooks/{webhookId}",
    "GET /v1/webhooks/{webhookId}/deliveries",
    "POST /v1/webhooks/{webhookId}/test",
    "POST /v1/devices/{deviceId}/token",
    "DELETE /v1/devices/{deviceId}/token",
  ],
};
type Class = keyof typeof may;
const classes = Object.keys(may) as Class[];

const env = { LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000" };

let gateway: LocalGateway;
let admin: Api;
let operations: { name: string; security: unknown }[];
let rootOperations: string[];
const callers: Record<string, Api> = {};
/** What there is of the administrator's own, to fill the paths with. */
const own: Record<string, string> = { deviceId: "dev", productId: "prod_raw_streams" };

const operationsOf = async (document: string) => {
  const { body } = await admin("GET", document);
  return Object.entries(body.paths as Record<string, Record<string, { security: unknown }>>).flatMap(
    ([path, methods]) =>
      Object.entries(methods).map(([method, { security }]) => ({ name: `${method.toUpperCase()} ${path}`, security })),
  );
};

beforeAll(async () => {
  gateway = await startLocalGateway({ env });
  admin = await logIn(gateway.url);
  const member = await logIn(gateway.url, "member");
  await admin("POST", "/v1/devices", { id: "dev", name: "n", type: "t" });
  own["keyId"] = (await admin("POST", "/v1/api-keys", { name: "the administrator's" })).body.id;
  const webhook = { url: "http://127.0.0.1:9/", events: ["alert.triggered"] };
  own["webhookId"] = (await admin("POST", "/v1/webhooks", webhook)).body.id;
  const rule = { deviceId: "dev", condition: "gt", threshold: 1 };
  own["ruleId"] = (await admin("POST", "/v1/alerts/rules", rule)).body.id;
  const buy = async (device: string, quantity: number): Promise<Api> => {
    const { body } = await admin("POST", "/v1/products/prod_raw_streams/purchase", { deviceId: device, quantity });
    return createApi(gateway.url, body.accessKey);
  };
  Object.assign(callers, {
    nobody: createApi(gateway.url),
    "a bad token": createApi(gateway.url, "garbage"),
    "a bad API key": createApi(gateway.url, "lk_00_00"),
    "a bad access key": createApi(gateway.url, "ak_00"),
    "a member": member,
    "a member's API key": createApi(gateway.url, (await member("POST", "/v1/api-keys", { name: "m" })).body.key),
    "an access key": await buy("dev", 1_000),
    "an administrator": admin,
    "an administrator's API key": createApi(gateway.url, (await admin("POST", "/v1/api-keys", { name: "a" })).body.key),
  });
  operations = await operationsOf("/v1/openapi.json");
  rootOperations = (await operationsOf("/openapi.json")).map(({ name }) => name);
});
afterAll(() => gateway.close());

const sorted = (list: readonly string[]): string[] => list.toSorted((a, b) => a.localeCompare(b));
const listed = (operation: string): Class | undefined => classes.find((one) => may[one].includes(operation));

/** Calls with an empty body; what is to be deleted does not exist, unless it is another's API key. */
async function call(api: Api, operation: string): Promise<Pick<Answer, "status" | "body">> {
  const [method = "", template = ""] = operation.split(" ");
  const path = template.replaceAll(/\{(\w+)\}/g, (_, name: string) =>
    method === "DELETE" && name !== "keyId" ? "nothing" : (own[name] ?? "nothing"),
  );
  const query = template.endsWith("/price") ? "?deviceId=dev" : "";
  if (template === "/v1/live" && api.token !== undefined) {
    const response = await fetch(gateway.url + path, { headers: { Authorization: `Bearer ${api.token}` } });
    if (response.ok) {
      await response.body?.cancel(); // it would never end
      return { status: response.status, body: undefined };
    }
    return { status: response.status, body: await response.json() };
  }
  const { status, body } = await api(method, path + query, ["POST", "PUT"].includes(method) ? {} : undefined);
  return { status, body };
}
const error = (status: number, code: string) => ({
  status,
  body: { error: { code, message: expect.any(String), details: {} } },
});

test("the gateway has the operations listed here and no others", () => {
  expect(sorted(operations.map(({ name }) => name))).toEqual(sorted(classes.flatMap((one) => may[one])));
});

test("nothing is routed under /v1 but what its OpenAPI document describes, and the document itself", () => {
  const { routes } = createHttpApp({} as HttpOptions); // the very table that the gateway serves from
  const served = routes
    .filter(({ method, path }) => method !== "ALL" && path.startsWith("/v1/"))
    .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, "{$1}")}`)
    .filter((operation) => operation !== "GET /v1/openapi.json");
  expect(sorted([...new Set(served)])).toEqual(sorted(operations.map(({ name }) => name)));
});

test("the document says of each operation whether it needs credentials", () => {
  const isOpen = (security: unknown): boolean =>
    (security as object[]).length === 0 || (security as object[]).some((one) => Object.keys(one).length === 0);
  expect(operations.filter(({ security }) => isOpen(security)).map(({ name }) => name)).toEqual(may.everybody);
});

const forbidden = error(403, "FORBIDDEN");
const oneOf = (...statuses: number[]) => ({ status: expect.toBeOneOf(statuses) });

/** What everybody gets of every operation, against what `expected` says of it. */
async function sweep(who: string, names: readonly string[], expected: (name: string) => object): Promise<void> {
  for (const name of names) {
    const answer = await call(callers[who] as Api, name);
    expect({ who, name, ...answer }).toMatchObject({ who, name, ...expected(name) });
  }
}
const all = (): string[] => operations.map(({ name }) => name);

test.each(["nobody", "a bad token", "a bad API key", "a bad access key"])(
  "%s gets 401 INVALID_TOKEN from every operation that is not public",
  async (who) => {
    expect(operations.length).toBeGreaterThan(20);
    await sweep(who, all(), (name) => (listed(name) === "everybody" ? oneOf(400) : error(401, "INVALID_TOKEN")));
  },
);

test.each(["a member", "a member's API key"])(
  "%s gets 403 FORBIDDEN from what is for administrators alone, 404 for another's key, and everything else",
  async (who) => {
    expect(operations.length).toBeGreaterThan(20);
    await sweep(who, all(), (name) => {
      if (listed(name) === "administrators") return forbidden;
      if (name === "DELETE /v1/api-keys/{keyId}") return error(404, "NOT_FOUND");
      // Nothing was bought: that is no matter of credentials.
      return name.endsWith("/access") ? forbidden : oneOf(200, 400, 404);
    });
  },
);

test("an access key gets its device's data, and 403 FORBIDDEN for everything else", async () => {
  expect(operations.length).toBeGreaterThan(20);
  await sweep("an access key", all(), (name) => {
    const one = listed(name);
    return one === "everybody" ? oneOf(400) : one === "usersAndBuyers" ? oneOf(200) : forbidden;
  });
});

test("an access key gets 403 from all of the root API that is not for everybody", async () => {
  const open = ["GET /health", "GET /hello", "GET /ca.crt", "POST /register", "POST /login"];
  expect(rootOperations).toEqual(expect.arrayContaining(open));
  await sweep("an access key", rootOperations, (name) =>
    open.includes(name) ? oneOf(200, 400, 404) : { status: 403, body: { error: "not allowed with these credentials" } },
  );
});

test.each(["an administrator", "an administrator's API key"])("%s is forbidden nothing", async (who) => {
  const names = all().filter((name) => name !== "DELETE /v1/api-keys/{keyId}"); // it is theirs
  expect(names.length).toBeGreaterThan(20);
  await sweep(who, names, () => oneOf(200, 201, 202, 400, 404));
});

test("after all that, what the administrator had is as it was", async () => {
  const { body: keys } = await admin("GET", "/v1/api-keys");
  expect(keys.apiKeys.map(({ name }: { name: string }) => name)).toEqual(
    expect.arrayContaining(["the administrator's", "a"]),
  );
  expect((await admin("GET", "/v1/webhooks")).body.webhooks).toHaveLength(1);
  expect((await admin("GET", "/v1/alerts/rules")).body.rules).toHaveLength(1);
  expect((await admin("GET", "/v1/devices")).body).toMatchObject({ devices: [{ id: "dev", name: "n" }], total: 1 });
});

import { afterEach, describe, expect, test } from "vitest";
import { createApi, logIn, type Answer, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// The rate limit of /v1: a bucket of 100, refilled at 1,000 a minute, by API key or user, else by address.

let gateway: LocalGateway;
afterEach(() => gateway.close());

/** Almost nothing comes back, so that what a test counts does not depend on how fast it runs. */
const slow = { LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1" };
const few = { ...slow, LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "3" };

const start = async (env: Record<string, string>): Promise<void> => {
  gateway = await startLocalGateway({ env });
};
const refused = { error: { code: "RATE_LIMITED", message: expect.any(String), details: {} } };
const statuses = async (api: Api, n: number, headers: Record<string, string> = {}): Promise<number[]> => {
  const found: number[] = [];
  for (let i = 0; i < n; i++) found.push((await api("GET", "/v1/products", undefined, headers)).status);
  return found;
};
const fields = ({ headers }: Answer): Record<string, string> =>
  Object.fromEntries([...headers].filter(([name]) => /^(?:ratelimit|retry-after)/.test(name)));

test("100 requests at once pass, and the 101st is 429 with Retry-After and the RateLimit fields", async () => {
  await start(slow);
  const api = await logIn(gateway.url);
  const answers = await Promise.all(Array.from({ length: 120 }, () => api("GET", "/v1/products")));
  const passed = answers.filter(({ status }) => status === 200);
  const turnedAway = answers.filter(({ status }) => status === 429);
  expect([passed.length, turnedAway.length]).toEqual([100, 20]);
  expect(passed.map(({ headers }) => Number(headers.get("RateLimit-Remaining"))).toSorted((a, b) => a - b)).toEqual(
    Array.from({ length: 100 }, (_, i) => i),
  );
  for (const answer of turnedAway) {
    expect(answer.body).toEqual(refused);
    expect(fields(answer)).toEqual({
      "ratelimit-policy": '"default";q=1;w=60;burst=100',
      ratelimit: expect.stringMatching(/^"default";r=0;t=\d+$/),
      "ratelimit-limit": "100",
      "ratelimit-remaining": "0",
      "ratelimit-reset": expect.stringMatching(/^\d+$/),
      "retry-after": expect.stringMatching(/^\d+$/),
    });
    expect(Number(answer.headers.get("Retry-After"))).toBeGreaterThanOrEqual(1);
    expect(Number(answer.headers.get("Retry-After"))).toBeLessThanOrEqual(60);
  }
  expect(gateway.app.counters.get("http.calls_refused")).toBe(20);
});

test("what comes back in a minute is 1,000, unless the configuration says otherwise", async () => {
  await start({});
  const api = await logIn(gateway.url);
  expect(fields(await api("GET", "/v1/products"))).toEqual({
    "ratelimit-policy": '"default";q=1000;w=60;burst=100',
    ratelimit: '"default";r=99;t=1',
    "ratelimit-limit": "100",
    "ratelimit-remaining": "99",
    "ratelimit-reset": "1",
  });
});

test("after the seconds of Retry-After there is one again", async () => {
  await start({ LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "2", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "60" });
  const api = await logIn(gateway.url);
  let answer = await api("GET", "/v1/products");
  for (let i = 0; i < 20 && answer.status !== 429; i++) answer = await api("GET", "/v1/products");
  expect(answer.status).toBe(429);
  await new Promise((resolve) => setTimeout(resolve, 1_000 * Number(answer.headers.get("Retry-After")) + 20));
  expect((await api("GET", "/v1/products")).status).toBe(200);
});

describe("a budget", () => {
  test("is each user's, each API key's and each access key's own", async () => {
    await start({ ...slow, LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "6" });
    const admin = await logIn(gateway.url);
    const member = await logIn(gateway.url, "member");
    const keys: string[] = [];
    for (const name of ["one", "two"]) keys.push((await admin("POST", "/v1/api-keys", { name })).body.key);
    await admin("POST", "/v1/devices", { id: "dev", name: "n", type: "t" });
    const purchase = { deviceId: "dev", quantity: 5 };
    const { accessKey } = (await admin("POST", "/v1/products/prod_raw_streams/purchase", purchase)).body;
    expect(await statuses(admin, 3)).toEqual([200, 200, 429]); // four were spent above
    for (const key of keys)
      expect(await statuses(createApi(gateway.url, key), 7)).toEqual([...Array(6).fill(200), 429]);
    expect(await statuses(createApi(gateway.url, accessKey), 7)).toEqual([...Array(6).fill(403), 429]);
    expect(await statuses(member, 7)).toEqual([...Array(6).fill(200), 429]);
    // A key is one budget by whichever header it comes, and a user one with whatever token.
    expect(await statuses(createApi(gateway.url), 1, { "X-API-Key": keys[0] as string })).toEqual([429]);
    const again = await admin("POST", "/login", { username: "member", password: "secret123" });
    expect(await statuses(createApi(gateway.url, again.body.token), 1)).toEqual([429]);
  });

  test("is the address's where there is no good token: bad ones spend it, and only it", async () => {
    await start({ ...few, LAMBDAIOT_SERVER_TRUSTED_PROXIES: "127.0.0.1" });
    const api = await logIn(gateway.url);
    const anybody = createApi(gateway.url);
    const from = (address: string, token = "") => ({ "X-Forwarded-For": address, Authorization: `Bearer ${token}` });
    expect(await statuses(anybody, 4, from("192.168.1.1", "garbage"))).toEqual([401, 401, 401, 429]);
    expect(await statuses(anybody, 4, from("192.168.1.2"))).toEqual([401, 401, 401, 429]);
    expect(await statuses(api, 4)).toEqual([200, 200, 200, 429]);
    // Whoever has a token of their own is not locked out by a neighbour at the same address.
    const { key } = (await logIn(gateway.url, "member").then((m) => m("POST", "/v1/api-keys", { name: "k" }))).body;
    expect(await statuses(anybody, 1, from("192.168.1.1", key))).toEqual([200]);
  });

  test("of an address is what logins cost", async () => {
    await start(few);
    const anybody = createApi(gateway.url);
    const login = () => anybody("POST", "/v1/auth/login", { email: "a@example.com" });
    const answers = [await login(), await login(), await login(), await login()];
    expect(answers.map(({ status }) => status)).toEqual([400, 400, 400, 429]);
    expect(answers[3]?.body).toEqual(refused);
  });
});

test("the root API is not limited", async () => {
  await start(few);
  const api = await logIn(gateway.url);
  expect(await statuses(api, 4)).toEqual([200, 200, 200, 429]);
  const answers = await Promise.all(Array.from({ length: 120 }, () => api("GET", "/sensors")));
  expect(answers.every(({ status }) => status === 200)).toBe(true);
  expect(fields(answers[0] as Answer)).toEqual({});
});

test("a thousand callers have a budget each, and the first is still remembered after them", async () => {
  await start({ ...few, LAMBDAIOT_SERVER_TRUSTED_PROXIES: "127.0.0.1" });
  const anybody = createApi(gateway.url);
  const call = (i: number) =>
    anybody("GET", "/v1/products", undefined, { "X-Forwarded-For": `10.1.${i >> 8}.${i & 255}` });
  const remaining: (string | null)[] = [];
  for (let i = 0; i < 1_000; i += 100) {
    const answers = await Promise.all(Array.from({ length: 100 }, (_, j) => call(i + j)));
    remaining.push(...answers.map(({ headers }) => headers.get("RateLimit-Remaining")));
  }
  expect(new Set(remaining)).toEqual(new Set(["2"]));
  expect((await call(0)).headers.get("RateLimit-Remaining")).toBe("1");
});

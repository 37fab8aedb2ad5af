import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createApi, logIn, until, type Answer, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// POST /v1/auth/login, PUT /v1/auth/password, /v1/api-keys: who one is, on both APIs.

const env = { LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000" };
const password = "secret123";
const email = "user@example.com";
const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const jwt = /^[\w-]+\.[\w-]+\.[\w-]+$/;

let gateway: LocalGateway;
let admin: Api;
let anybody: Api;
let userId: string;

const start = Date.parse("2026-02-06T20:00:00Z");
let clock = start;

beforeAll(async () => {
  gateway = await startLocalGateway({ env, now: () => clock });
  admin = await logIn(gateway.url);
  anybody = createApi(gateway.url);
  userId = (await anybody("POST", "/register", { username: "somebody", email, password })).body.id;
});
afterAll(() => gateway.close());

const shown = ({ status, body }: Answer) => ({ status, body });
const invalidToken = {
  status: 401,
  body: { error: { code: "INVALID_TOKEN", message: "Invalid or expired authentication token", details: {} } },
};
const error = (status: number, code: string, details: unknown = expect.any(Object)) => ({
  status,
  body: { error: { code, message: expect.any(String), details } },
});
const as = (token: string): Api => createApi(gateway.url, token);

describe("POST /v1/auth/login", () => {
  let answer: Answer;
  beforeAll(async () => {
    answer = await anybody("POST", "/v1/auth/login", { email, password });
  });

  test("answers as the document's sample does: token, expiresIn 86400, the user's id and email", () => {
    expect(shown(answer)).toEqual({
      status: 200,
      body: {
        token: expect.stringMatching(jwt),
        expiresIn: 86_400,
        user: { id: userId, email, username: "somebody", role: "member" },
      },
    });
    expect(userId).toMatch(uuid);
    expect(answer.headers.get("Content-Type")).toBe("application/json");
  });

  test("gives a token that is good here and at the root", async () => {
    const user = as(answer.body.token);
    expect((await user("GET", "/v1/devices")).status).toBe(200);
    const { status, body } = await user("GET", "/protected");
    expect(status).toBe(200);
    expect(body.claims).toMatchObject({ sub: "somebody", user_id: userId });
    expect(body.claims.exp - body.claims.iat).toBe(86_400);
  });

  test("takes the username too, in either field, and in any case", async () => {
    const logins = [
      { email: "SomeBody", password },
      { username: "somebody", password },
      { username: "User@Example.com", password },
    ];
    const answers = await Promise.all(logins.map((login) => anybody("POST", "/v1/auth/login", login)));
    expect(answers.map(({ status, body }) => [status, body.user.id])).toEqual(logins.map(() => [200, userId]));
  });

  test("shows a user without an email as one without", async () => {
    const { body } = await anybody("POST", "/v1/auth/login", { username: "admin", password });
    expect(body.user).toEqual({ id: expect.stringMatching(uuid), email: null, username: "admin", role: "admin" });
  });

  test("answers an unknown email, an unknown username and a wrong password alike", async () => {
    const answers = await Promise.all([
      anybody("POST", "/v1/auth/login", { email, password: "wrong-password" }),
      anybody("POST", "/v1/auth/login", { email: "nobody@example.com", password }),
      anybody("POST", "/v1/auth/login", { username: "nobody", password }),
      anybody("POST", "/v1/auth/login", { email: "", password: "" }),
    ]);
    const refused = {
      status: 401,
      body: { error: { code: "INVALID_CREDENTIALS", message: "invalid credentials", details: {} } },
    };
    for (const wrong of answers) {
      expect(shown(wrong)).toEqual(refused);
      expect([...wrong.headers.keys()]).toEqual([...(answers[0]?.headers.keys() ?? [])]);
    }
  });

  test.each([
    ["no email", { password }, "email is required", {}],
    ["no password", { email }, "password is required", { field: "password" }],
    ["an email that is a number", { email: 1, password }, "email must be a string", { field: "email" }],
    ["a password that is an object", { email, password: {} }, "password must be a string", { field: "password" }],
    ["an empty object", {}, "password is required", { field: "password" }],
    ["a bare string", '"x"', "the body must be a JSON object", {}],
    ["broken JSON", "{", "invalid JSON", {}],
    ["no body", "", "invalid JSON", {}],
  ])("answers 400 to %s", async (_, body, message, details) => {
    const answered = await anybody("POST", "/v1/auth/login", body);
    expect(shown(answered)).toEqual({ status: 400, body: { error: { code: "VALIDATION_ERROR", message, details } } });
  });

  test("answers 400 to a form", async () => {
    const type = { "Content-Type": "application/x-www-form-urlencoded" };
    expect(shown(await anybody("POST", "/v1/auth/login", "email=a&password=b", type))).toEqual(
      error(400, "VALIDATION_ERROR", {}),
    );
  });
});

describe("a token", () => {
  test("is refused with INVALID_TOKEN where it is missing, garbage, or in another scheme", async () => {
    for (const header of [undefined, "", "Bearer", "Bearer ", "Bearer garbage", `Basic ${btoa("a:b")}`, admin.token]) {
      const answer = await anybody(
        "GET",
        "/v1/devices",
        undefined,
        header === undefined ? {} : { Authorization: header },
      );
      expect({ header, ...shown(answer) }).toEqual({ header, ...invalidToken });
      expect(answer.headers.get("WWW-Authenticate")).toBe("Bearer");
    }
  });

  test("expires after 24 hours", async () => {
    clock = start;
    const { body } = await anybody("POST", "/v1/auth/login", { email, password });
    const user = as(body.token);
    clock = start + 86_400_000 - 1_000;
    expect((await user("GET", "/v1/products")).status).toBe(200);
    clock = start + 86_400_000 + 61_000; // and a minute for clocks that differ
    expect(shown(await user("GET", "/v1/products"))).toEqual(invalidToken);
    expect((await user("GET", "/protected")).status).toBe(401);
    clock = start;
  });
});

describe("PUT /v1/auth/password", () => {
  test("makes every older token worthless, on both APIs, and leaves API keys alone", async () => {
    const user = await logIn(gateway.url, "changer");
    const { body: made } = await user("POST", "/v1/api-keys", { name: "kept" });
    const { body: again } = await anybody("POST", "/v1/auth/login", { username: "changer", password });
    const change = { currentPassword: password, newPassword: "another456" };
    expect(shown(await user("PUT", "/v1/auth/password", change))).toEqual({ status: 200, body: { success: true } });
    for (const old of [user.token as string, again.token as string]) {
      expect(shown(await as(old)("GET", "/v1/devices"))).toEqual(invalidToken);
      expect(shown(await as(old)("GET", "/protected"))).toEqual({ status: 401, body: { error: "no claims" } });
    }
    expect((await as(made.key)("GET", "/v1/devices")).status).toBe(200);
    const logins = await Promise.all([
      anybody("POST", "/v1/auth/login", { username: "changer", password }),
      anybody("POST", "/login", { username: "changer", password: "another456" }),
    ]);
    expect(logins.map(({ status }) => status)).toEqual([401, 200]);
    expect((await as(logins[1].body.token)("GET", "/v1/devices")).status).toBe(200);
  });

  test("answers 401 INVALID_CREDENTIALS to a wrong current password, 400 to a new one that is too short", async () => {
    const wrong = { currentPassword: "wrong-password", newPassword: "another456" };
    expect(shown(await admin("PUT", "/v1/auth/password", wrong))).toEqual(error(401, "INVALID_CREDENTIALS"));
    const short = { currentPassword: password, newPassword: "12345" };
    expect(shown(await admin("PUT", "/v1/auth/password", short))).toEqual(
      error(400, "VALIDATION_ERROR", { field: "newPassword" }),
    );
    expect((await admin("GET", "/v1/devices")).status).toBe(200); // nothing was changed
  });
});

describe("API keys", () => {
  let member: Api;
  beforeAll(async () => {
    member = await logIn(gateway.url, "key-owner");
  });
  const create = async (owner: Api, name = "script") => (await owner("POST", "/v1/api-keys", { name })).body;
  const names = async (owner: Api): Promise<string[]> =>
    (await owner("GET", "/v1/api-keys")).body.apiKeys.map(({ name }: { name: string }) => name);

  test("are shown once: at their creation, and never in the list", async () => {
    const { status, body } = await member("POST", "/v1/api-keys", { name: "once" });
    expect({ status, body }).toEqual({
      status: 201,
      body: {
        id: expect.any(String),
        name: "once",
        key: expect.stringMatching(/^lk_\w+_[\w-]{43}$/),
        createdAt: "2026-02-06T20:00:00Z",
        lastUsedAt: null,
      },
    });
    const list = await member("GET", "/v1/api-keys");
    const { key, ...rest } = body;
    expect(list.body).toEqual({ apiKeys: [rest] });
    expect(JSON.stringify(list.body)).not.toContain(key.split("_")[2]);
  });

  test("are taken as Authorization: Bearer and as X-API-Key, on both APIs, with their user's rights", async () => {
    const { key } = await create(member);
    const { key: adminKey } = await create(admin);
    for (const header of [{ Authorization: `Bearer ${key}` }, { "X-API-Key": key }]) {
      expect((await anybody("GET", "/v1/devices", undefined, header)).status).toBe(200);
      expect((await anybody("GET", "/sensors", undefined, header)).status).toBe(200);
      expect(shown(await anybody("GET", "/v1/webhooks", undefined, header))).toEqual(error(403, "FORBIDDEN", {}));
    }
    expect((await anybody("GET", "/v1/webhooks", undefined, { "X-API-Key": adminKey })).status).toBe(200);
    expect(await names(as(key))).toEqual(await names(member));
  });

  test("have no claims: /protected, which shows a token's, refuses them", async () => {
    const { key } = await create(member);
    expect(shown(await as(key)("GET", "/protected"))).toEqual({ status: 401, body: { error: "no claims" } });
  });

  test("are worth nothing where a character is wrong", async () => {
    const { key } = await create(member);
    const flipped = key.slice(0, -2) + (key.at(-2) === "A" ? "B" : "A") + key.at(-1);
    for (const wrong of [flipped, key.slice(0, -1), `${key}x`, key.toUpperCase(), "lk_", "lk__", "lk_x_y"])
      expect(shown(await as(wrong)("GET", "/v1/devices"))).toEqual(invalidToken);
  });

  test("say when they were last used", async () => {
    clock = start + 5_000;
    const { id, key } = await create(member);
    expect((await as(key)("GET", "/v1/devices")).status).toBe(200);
    const lastUsed = async () =>
      (await member("GET", "/v1/api-keys")).body.apiKeys.find((one: { id: string }) => one.id === id).lastUsedAt;
    expect(await until(lastUsed)).toBe("2026-02-06T20:00:05Z");
    clock = start + 3_605_000;
    await as(key)("GET", "/v1/devices");
    await until(async () => (await lastUsed()) === "2026-02-06T21:00:05Z");
    clock = start;
  });

  test("end with their deletion, at once", async () => {
    const { id, key } = await create(member);
    expect((await as(key)("GET", "/v1/devices")).status).toBe(200);
    expect(shown(await member("DELETE", `/v1/api-keys/${id}`))).toEqual({ status: 200, body: { success: true } });
    expect(shown(await as(key)("GET", "/v1/devices"))).toEqual(invalidToken);
    expect(shown(await member("DELETE", `/v1/api-keys/${id}`))).toEqual(error(404, "NOT_FOUND"));
  });

  test("of another user are 404, for an administrator too, and stay", async () => {
    const { id, key } = await create(member);
    expect(shown(await admin("DELETE", `/v1/api-keys/${id}`))).toEqual(error(404, "NOT_FOUND"));
    expect((await as(key)("GET", "/v1/devices")).status).toBe(200);
    expect((await admin("GET", "/v1/api-keys")).body.apiKeys.map((one: { id: string }) => one.id)).not.toContain(id);
  });

  test("need a name of 1 to 100 characters", async () => {
    for (const body of [{}, { name: "" }, { name: 5 }, { name: "n".repeat(101) }])
      expect(shown(await member("POST", "/v1/api-keys", body))).toEqual(
        error(400, "VALIDATION_ERROR", { field: "name" }),
      );
    expect((await member("POST", "/v1/api-keys", { name: "n".repeat(100) })).status).toBe(201);
  });

  test("are limited for each user: one more is 409 CONFLICT until one is deleted", async () => {
    const few = await startLocalGateway({ env: { ...env, LAMBDAIOT_AUTH_MAX_API_KEYS: "2" } });
    try {
      const owner = await logIn(few.url);
      const { id } = await create(owner);
      await create(owner);
      expect(shown(await owner("POST", "/v1/api-keys", { name: "third" }))).toEqual(error(409, "CONFLICT"));
      await owner("DELETE", `/v1/api-keys/${id}`);
      expect((await owner("POST", "/v1/api-keys", { name: "third" })).status).toBe(201);
    } finally {
      await few.close();
    }
  });
});

test("too many failed logins from one address are 429 RATE_LIMITED, at both logins, for the right password too", async () => {
  const few = await startLocalGateway({
    env: { ...env, LAMBDAIOT_AUTH_ATTEMPTS_BURST: "4", LAMBDAIOT_AUTH_ATTEMPTS_PER_MINUTE: "1" },
  });
  try {
    const api = createApi(few.url);
    await api("POST", "/register", { username: "somebody", email, password });
    const wrong = { email, password: "wrong-password" };
    const good = await api("POST", "/v1/auth/login", { email, password });
    expect(good.status).toBe(200); // is not counted
    expect((await api("POST", "/v1/auth/login", wrong)).status).toBe(401);
    expect((await api("POST", "/login", { username: email, password: "wrong-password" })).status).toBe(401);
    const change = { currentPassword: "wrong-password", newPassword: password };
    expect((await createApi(few.url, good.body.token)("PUT", "/v1/auth/password", change)).status).toBe(401);
    for (const body of [wrong, { email, password }]) {
      const answer = await api("POST", "/v1/auth/login", body);
      expect(shown(answer)).toEqual(error(429, "RATE_LIMITED", {}));
      expect(Number(answer.headers.get("Retry-After"))).toBeGreaterThanOrEqual(1);
    }
    expect((await api("POST", "/login", { username: email, password })).status).toBe(429);
    expect((await createApi(few.url, good.body.token)("PUT", "/v1/auth/password", change)).status).toBe(429);
  } finally {
    await few.close();
  }
});

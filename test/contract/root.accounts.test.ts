import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createApi, logIn, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// POST /register, POST /login, GET /protected.

let gateway: LocalGateway;
let admin: Api;
let api: Api;

beforeAll(async () => {
  gateway = await startLocalGateway();
  admin = await logIn(gateway.url, "first");
  api = createApi(gateway.url);
});
afterAll(() => gateway.close());

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const password = "secret123";

describe("POST /register", () => {
  test("answers 201 with the new user's id and username, and nothing else", async () => {
    const { status, body, headers } = await api("POST", "/register", { username: "Maria", password });
    expect(status).toBe(201);
    expect(headers.get("Content-Type")).toBe("application/json");
    expect(body).toEqual({ id: expect.stringMatching(uuid), username: "Maria" });
  });

  test("makes the first user an administrator and later ones members", async () => {
    const later = await logIn(gateway.url, "later");
    expect((await admin("GET", "/protected")).body.claims).toMatchObject({ sub: "first", role: "admin" });
    expect((await later("GET", "/protected")).body.claims).toMatchObject({ sub: "later", role: "member" });
  });

  test("makes one administrator only, where two register first at the same moment", async () => {
    const empty = await startLocalGateway();
    try {
      const users = await Promise.all(["one", "two"].map((name) => logIn(empty.url, name)));
      const roles = await Promise.all(users.map(async (user) => (await user("GET", "/protected")).body.claims.role));
      expect(roles.filter((role) => role === "admin")).toHaveLength(1);
      expect(roles.filter((role) => role === "member")).toHaveLength(1);
    } finally {
      await empty.close();
    }
  });

  test.each([
    ["the same name", "Tanaka", "Tanaka"],
    ["another case", "Tanaka-2", "tANAKA-2"],
    ["full-width letters (NFKC)", "Alice", "Ａｌｉｃｅ"],
    ["a composed and a decomposed accent", "Jos\u00e9", "Jose\u0301"],
    ["letters that fold to two", "Straße", "STRASSE"],
    ["both forms of the small sigma", "ΝΙΚΟΣ", "νικοσ"],
  ])("answers 409 to a username that is taken: %s", async (_, taken, again) => {
    expect((await api("POST", "/register", { username: taken, password })).status).toBe(201);
    const { status, body } = await api("POST", "/register", { username: again, password });
    expect({ status, body }).toEqual({ status: 409, body: { error: "username already exists" } });
  });

  test("answers 409 to an email that is taken, in whatever case", async () => {
    const first = { username: "mail-1", password, email: "Post@Example.com" };
    expect((await api("POST", "/register", first)).status).toBe(201);
    const { status, body } = await api("POST", "/register", {
      ...first,
      username: "mail-2",
      email: "post@example.COM",
    });
    expect({ status, body }).toEqual({ status: 409, body: { error: "email already exists" } });
  });

  test("answers 409 to a username that is somebody's email: either one logs in", async () => {
    const first = { username: "mail-3", password, email: "mail3@example.com" };
    expect((await api("POST", "/register", first)).status).toBe(201);
    expect((await api("POST", "/register", { username: "MAIL3@example.com", password })).status).toBe(409);
    expect((await api("POST", "/register", { username: "mail-4", password, email: "x@example.com" })).status).toBe(201);
    const reverse = await api("POST", "/register", { username: "y@example.com", password });
    expect(reverse.status).toBe(201);
    expect((await api("POST", "/register", { username: "mail-5", password, email: "y@example.com" })).status).toBe(409);
  });

  test("lets any number of users be without an email", async () => {
    expect((await api("POST", "/register", { username: "bare-1", password })).status).toBe(201);
    expect((await api("POST", "/register", { username: "bare-2", password, email: "" })).status).toBe(201);
    expect((await api("POST", "/register", { username: "bare-3", password, email: "" })).status).toBe(201);
  });

  test.each([
    ["a username of 3 and a password of 128 characters", { username: "abc", password: "p".repeat(128) }],
    ["a username of 50 and a password of 6 characters", { username: "u".repeat(50), password: "123456" }],
    ["characters that take 2 and 4 bytes each", { username: "🌱🌿🌳", password: "äöüäöü" }],
    ["fields that it does not know", { username: "more-fields", role: "admin", id: "x" }],
  ])("takes %s, and logs the user in with it", async (_, fields) => {
    const user = { password, ...fields };
    expect((await api("POST", "/register", user)).status).toBe(201);
    const { status, body } = await api("POST", "/login", user);
    expect(status).toBe(200);
    const claims = (await api("GET", "/protected", undefined, { Authorization: `Bearer ${body.token}` })).body.claims;
    expect(claims).toMatchObject({ sub: user.username, role: "member" });
  });

  test.each([
    ["no username", { username: undefined }, "username is required"],
    ["no password", { password: undefined }, "password is required"],
    ["a username that is a number", { username: 12345 }, "username must be a string"],
    ["a username of 2 characters", { username: "ab" }, "username must have 3 to 50 characters"],
    ["a username of 51 characters", { username: "u".repeat(51) }, "username must have 3 to 50 characters"],
    ["a NUL in the username", { username: "nul\0user" }, "username must not have control characters"],
    ["a line break in the username", { username: "new\nline" }, "username must not have control characters"],
    ["a padded username", { username: " padded" }, "username must not begin or end with a space"],
    ["a password of 5 characters", { password: "12345" }, "password must have 6 characters or more"],
    ["a password of 129 bytes", { password: "p".repeat(129) }, "password must not be longer than 128 bytes"],
    ["65 characters of 2 bytes", { password: "ä".repeat(65) }, "password must not be longer than 128 bytes"],
    ["a password that is an object", { password: { length: 8 } }, "password must be a string"],
    ["an email that is none", { email: "nobody" }, "email must be an email address"],
    ["an email that is a number", { email: 5 }, "email must be an email address"],
  ])("answers 400 to %s", async (_, fields, error) => {
    const { status, body } = await api("POST", "/register", { username: "refused", password, ...fields });
    expect({ status, body }).toEqual({ status: 400, body: { error } });
  });

  test("makes nobody of whom it has refused", async () => {
    expect((await api("POST", "/register", { username: "refused", password })).status).toBe(201);
  });
});

describe("POST /login", () => {
  beforeAll(async () => {
    await api("POST", "/register", { username: "Kofi", password, email: "kofi@example.com" });
  });

  test("answers 200 with a token, and nothing else", async () => {
    const { status, body } = await api("POST", "/login", { username: "Kofi", password });
    expect(status).toBe(200);
    expect(body).toEqual({ token: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/) });
  });

  test.each(["kofi", "KOFI", "Ｋｏｆｉ", "kofi@example.com", "KOFI@Example.Com"])(
    "knows the user as %s",
    async (login) => {
      const { body } = await api("POST", "/login", { username: login, password });
      const { body: answer } = await api("GET", "/protected", undefined, { Authorization: `Bearer ${body.token}` });
      expect(answer.claims.sub).toBe("Kofi");
    },
  );

  test("answers an unknown user and a wrong password with the same 401", async () => {
    const answers = await Promise.all([
      api("POST", "/login", { username: "Kofi", password: "wrong-password" }),
      api("POST", "/login", { username: "nobody", password }),
      api("POST", "/login", { username: "nobody@example.com", password }),
      api("POST", "/login", { username: "kofi@example.com", password: `${password} ` }),
      api("POST", "/login", { username: "", password: "" }),
    ]);
    for (const { status, body, headers } of answers) {
      expect({ status, body }).toEqual({ status: 401, body: { error: "invalid credentials" } });
      expect([...headers.keys()]).toEqual([...(answers[0]?.headers.keys() ?? [])]);
    }
  });

  test.each([
    ["broken JSON", '{"username":', "invalid JSON"],
    ["an empty body", "", "invalid JSON"],
    ["an array", "[]", "the body must be a JSON object"],
    ["a bare string", '"Kofi"', "the body must be a JSON object"],
    ["null", "null", "the body must be a JSON object"],
    ["no password", '{"username":"Kofi"}', "password is required"],
    ["a password that is a number", '{"username":"Kofi","password":1}', "password must be a string"],
    ["deep nesting", `{"username":${"[".repeat(10_000)}${"]".repeat(10_000)}}`, "invalid JSON"],
  ])("answers 400 to %s", async (_, text, error) => {
    const { status, body } = await api("POST", "/login", text);
    expect({ status, body }).toEqual({ status: 400, body: { error } });
  });

  test.each(["text/plain", "application/x-www-form-urlencoded", "application/jsonp"])(
    "answers 400 to a body of type %s",
    async (type) => {
      const { status, body } = await api("POST", "/login", { username: "Kofi", password }, { "Content-Type": type });
      expect({ status, body }).toEqual({ status: 400, body: { error: "Content-Type must be application/json" } });
    },
  );
});

describe("GET /protected", () => {
  test("shows the token's claims: username, user id, and an end 24 hours after its issue", async () => {
    const { body: user } = await api("POST", "/register", { username: "claims", password });
    const bearer = await logIn(gateway.url, "claims");
    const { status, body } = await bearer("GET", "/protected");
    expect(status).toBe(200);
    expect(Object.keys(body)).toEqual(["claims"]);
    expect(body.claims).toMatchObject({ sub: "claims", user_id: user.id });
    expect(body.claims.exp - body.claims.iat).toBe(86_400);
  });

  test.each<[string, Record<string, string>]>([
    ["no token", {}],
    ["a token that is none", { Authorization: "Bearer nonsense" }],
    ["another scheme", { Authorization: "Basic Zmlyc3Q6c2VjcmV0MTIz" }],
    ["an empty header", { Authorization: "" }],
  ])("answers 401 to %s", async (_, headers) => {
    const { status, body } = await api("GET", "/protected", undefined, headers);
    expect({ status, body }).toEqual({ status: 401, body: { error: "no claims" } });
  });

  test("takes the scheme in any case", async () => {
    const { status } = await api("GET", "/protected", undefined, { Authorization: `bearer ${admin.token}` });
    expect(status).toBe(200);
  });
});

import { request } from "node:http";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createApi, logIn, type Answer, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// Who may do what without a token, from where, how often, and how much of it.

const outside = { "X-Forwarded-For": "192.168.1.20" };
const user = { username: "somebody", password: "secret123" };
const notAllowed = { status: 403, body: { error: "registration is not allowed" } };
const notPublic = { status: 403, body: { error: "not public from this address: a token is needed" } };

const shown = ({ status, body }: Answer) => ({ status, body });

let opened: LocalGateway | undefined;
afterEach(async () => {
  await opened?.close();
  opened = undefined;
});

/** A gateway for one test, set up by `env`. */
async function start(env: Record<string, string>): Promise<Api> {
  opened = await startLocalGateway({ env });
  return createApi(opened.url);
}

describe("auth.registration", () => {
  test.each([
    ["X-Forwarded-For", { "X-Forwarded-For": "192.168.1.20" }],
    ["X-Forwarded-For of this very machine", { "X-Forwarded-For": "127.0.0.1" }],
    ["an empty X-Forwarded-For", { "X-Forwarded-For": "" }],
    ["Forwarded", { Forwarded: "for=192.168.1.20;proto=https" }],
    ["X-Real-IP alone", { "X-Real-IP": "192.168.1.20" }],
    ["X-Forwarded-Proto alone", { "X-Forwarded-Proto": "https" }],
    ["X-Forwarded-Host alone", { "X-Forwarded-Host": "gateway.example" }],
  ])("lan, the default: a caller with %s from a proxy that nobody vouches for is outside", async (_, headers) => {
    const api = await start({});
    expect(shown(await api("POST", "/register", user, headers as Record<string, string>))).toEqual(notAllowed);
    expect((await api("POST", "/register", user)).status).toBe(201);
  });

  test("lan: a trusted proxy is believed, in what the last untrusted hop says", async () => {
    const api = await start({ LAMBDAIOT_SERVER_TRUSTED_PROXIES: "127.0.0.1,10.0.0.1" });
    const register = (username: string, hops: string) =>
      api("POST", "/register", { ...user, username }, { "X-Forwarded-For": hops });
    expect(shown(await register("far", "203.0.113.9"))).toEqual(notAllowed);
    expect(shown(await register("liar", "192.168.1.20, 203.0.113.9"))).toEqual(notAllowed);
    expect(shown(await register("liar2", "192.168.1.20, 203.0.113.9, 10.0.0.1"))).toEqual(notAllowed);
    expect((await register("near", "192.168.1.20")).status).toBe(201);
    expect((await register("near2", "203.0.113.9, 192.168.1.20, 10.0.0.1")).status).toBe(201);
    expect((await register("near6", "fd00::7")).status).toBe(201);
  });

  test("open: everybody may", async () => {
    const api = await start({ LAMBDAIOT_AUTH_REGISTRATION: "open" });
    expect((await api("POST", "/register", user, outside)).status).toBe(201);
  });

  test("off: nobody may, not even first", async () => {
    const api = await start({ LAMBDAIOT_AUTH_REGISTRATION: "off" });
    expect(shown(await api("POST", "/register", user))).toEqual(notAllowed);
    expect((await api("POST", "/login", user)).status).toBe(401);
  });

  test("first: the first user may, from the local network, and one only where several are first", async () => {
    const api = await start({ LAMBDAIOT_AUTH_REGISTRATION: "first" });
    expect(shown(await api("POST", "/register", user, outside))).toEqual(notAllowed);
    const names = ["one", "two", "three"];
    const answers = await Promise.all(names.map((username) => api("POST", "/register", { ...user, username })));
    expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([201, 403, 403]);
    expect(shown(await api("POST", "/register", { ...user, username: "later" }))).toEqual(notAllowed);
  });
});

describe("auth.public_devices", () => {
  const list = async (api: Api) => ({
    near: shown(await api("GET", "/devices")),
    far: shown(await api("GET", "/devices", undefined, outside)),
  });
  const devices = { status: 200, body: [] };

  test("lan, the default: those outside need a token, and a bad one does not do", async () => {
    const api = await start({});
    expect(await list(api)).toEqual({ near: devices, far: notPublic });
    const bad = await api("GET", "/devices", undefined, { ...outside, Authorization: "Bearer nonsense" });
    expect(shown(bad)).toEqual({ status: 401, body: { error: "no claims" } });
    const { token } = await logIn((opened as LocalGateway).url);
    const good = await api("GET", "/devices", undefined, { ...outside, Authorization: `Bearer ${token}` });
    expect(shown(good)).toEqual(devices);
  });

  test("open: everybody sees them", async () => {
    const api = await start({ LAMBDAIOT_AUTH_PUBLIC_DEVICES: "open" });
    expect(await list(api)).toEqual({ near: devices, far: devices });
  });

  test("off: nobody without a token does", async () => {
    const api = await start({ LAMBDAIOT_AUTH_PUBLIC_DEVICES: "off" });
    expect(await list(api)).toEqual({ near: notPublic, far: notPublic });
    const { token } = await logIn((opened as LocalGateway).url);
    expect(shown(await api("GET", "/devices", undefined, { Authorization: `Bearer ${token}` }))).toEqual(devices);
  });
});

describe("attempts", () => {
  const few = { LAMBDAIOT_AUTH_ATTEMPTS_BURST: "3", LAMBDAIOT_AUTH_ATTEMPTS_PER_MINUTE: "1" };
  const wrong = { ...user, password: "wrong-password" };

  function expectRefused(answer: Answer): void {
    expect(shown(answer)).toEqual({ status: 429, body: { error: "too many attempts, try again later" } });
    expect(answer.headers.get("Retry-After")).toMatch(/^[1-9]\d*$/);
    expect(Number(answer.headers.get("Retry-After"))).toBeLessThanOrEqual(60);
  }

  test("failed logins are limited for each address: 429 with Retry-After, for the right password too", async () => {
    const api = await start({ ...few, LAMBDAIOT_SERVER_TRUSTED_PROXIES: "127.0.0.1" });
    const from = (address: string) => ({ "X-Forwarded-For": address });
    expect((await api("POST", "/register", user, from("192.168.1.1"))).status).toBe(201);
    for (let i = 0; i < 3; i++) expect((await api("POST", "/login", wrong, from("192.168.1.2"))).status).toBe(401);
    expectRefused(await api("POST", "/login", wrong, from("192.168.1.2")));
    expectRefused(await api("POST", "/login", user, from("192.168.1.2")));
    expect((await api("POST", "/login", user, from("192.168.1.3"))).status).toBe(200);
  });

  test("good logins are not counted", async () => {
    const api = await start(few);
    expect((await api("POST", "/register", user)).status).toBe(201);
    for (let i = 0; i < 5; i++) expect((await api("POST", "/login", user)).status).toBe(200);
  });

  test("registrations are limited for each address", async () => {
    const api = await start(few);
    const register = (username: string) => api("POST", "/register", { ...user, username });
    expect((await register("one")).status).toBe(201);
    expect((await register("one")).status).toBe(409);
    expect((await register("x")).status).toBe(400); // not an attempt
    expect((await register("two")).status).toBe(201);
    expectRefused(await register("three"));
  });
});

describe("bodies", () => {
  let gateway: LocalGateway;
  let api: Api;
  beforeAll(async () => {
    gateway = await startLocalGateway({ env: { LAMBDAIOT_SERVER_MAX_BODY_BYTES: "65536" } });
    api = await logIn(gateway.url);
  });
  afterAll(() => gateway.close());

  const tooLarge = { status: 413, body: { error: "the body is larger than 65536 bytes" } };
  const device = { name: "Room", description: "", location: "", status_id: 1 };

  test("larger than server.max_body_bytes are answered 413, for whoever sends them", async () => {
    const body = JSON.stringify({ ...device, description: "d".repeat(65_536) });
    expect(shown(await api("POST", "/devices", body))).toEqual(tooLarge);
    expect(shown(await createApi(gateway.url)("POST", "/login", body))).toEqual(tooLarge);
    expect((await api("GET", "/devices")).body).toEqual([]);
  });

  test("larger than server.max_body_bytes are answered 413 also where their length is not told beforehand", async () => {
    const status = await new Promise((resolve, reject) => {
      const headers = { "Content-Type": "application/json", Authorization: `Bearer ${api.token}` };
      const sending = request(`${gateway.url}/devices`, { method: "POST", headers }, (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      sending.on("error", reject);
      for (let i = 0; i < 10; i++) sending.write("x".repeat(10_000));
      sending.end();
    });
    expect(status).toBe(413);
    expect((await api("GET", "/devices")).body).toEqual([]);
  });

  test("with a character set or another JSON type are taken", async () => {
    for (const type of ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"])
      expect((await api("POST", "/devices", device, { "Content-Type": type })).status).toBe(201);
  });

  test("with `__proto__` and `constructor` keys change nothing but themselves", async () => {
    const text =
      '{"name":"P","description":"","location":"","status_id":1,"__proto__":{"status_id":4},"constructor":1}';
    const { status, body } = await api("POST", "/devices", text);
    expect(status).toBe(201);
    expect((await api("GET", `/devices/${body.id}`)).body.status_id).toBe(1);
    expect(
      (await api("POST", "/devices", '{"__proto__":{"name":"N","description":"","location":"","status_id":1}}')).status,
    ).toBe(400);
  });

  test("nested deeper than 32 levels are answered 400", async () => {
    const text = `{"name":${"[".repeat(30_000)}${"]".repeat(30_000)}}`;
    expect(shown(await api("POST", "/devices", text))).toEqual({ status: 400, body: { error: "invalid JSON" } });
  });

  test("are looked at only after the token", async () => {
    const { status, body } = await createApi(gateway.url)("POST", "/devices", "{broken");
    expect({ status, body }).toEqual({ status: 401, body: { error: "no claims" } });
  });
});

test("every answer says that its type is meant", async () => {
  const api = await start({});
  for (const path of ["/health", "/devices", "/nothing", "/protected", "/docs"])
    expect((await api("GET", path)).headers.get("X-Content-Type-Options")).toBe("nosniff");
});

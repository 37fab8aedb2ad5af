import Sqlite from "better-sqlite3";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectMqtt, createApi, logIn, openInbox, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// GET /health, /hello and /mqttping, the API's own documentation, paths that lead nowhere, and a store that fails.

let gateway: LocalGateway;
let anybody: Api;
let api: Api;

beforeAll(async () => {
  gateway = await startLocalGateway({ env: { LAMBDAIOT_MQTT_TOPIC: "home/iot" } });
  anybody = createApi(gateway.url);
  api = await logIn(gateway.url);
});
afterAll(() => gateway.close());

test("GET /health says that all is well", async () => {
  const { status, body, headers } = await anybody("GET", "/health");
  expect({ status, body }).toEqual({ status: 200, body: { status: "ok" } });
  expect(headers.get("Content-Type")).toBe("application/json");
});

test("GET /hello greets", async () => {
  const { status, body } = await anybody("GET", "/hello");
  expect({ status, body }).toEqual({ status: 200, body: { message: "hello from lambdaiot" } });
});

test("GET /mqttping publishes the documented message to the configured topic, and answers with its time", async () => {
  const client = await connectMqtt(gateway.mqttUrl);
  const inbox = await openInbox(client, "home/iot");
  const { status, body } = await api("GET", "/mqttping");
  expect(status).toBe(200);
  expect(body).toEqual({
    timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z$/),
    topic: "home/iot",
  });
  expect(await inbox.next(() => true)).toEqual({ type: "ping", timestamp: body.timestamp });
});

describe("documentation", () => {
  test("GET /openapi.json is made of the routes, and open to everybody", async () => {
    const { status, body } = await anybody("GET", "/openapi.json");
    expect(status).toBe(200);
    expect(body.openapi).toBe("3.0.3");
    expect(Object.keys(body.paths["/sensors/{id}/trigger"])).toEqual(["post"]);
  });

  test("GET /docs is a page that takes nothing from elsewhere", async () => {
    const response = await fetch(`${gateway.url}/docs`);
    expect(response.status).toBe(200);
    expect(response.headers.get("Content-Type")).toMatch(/^text\/html/);
    expect(response.headers.get("Content-Security-Policy")).toContain("default-src 'none'");
    expect(await response.text()).not.toMatch(/(?:src|href)="(?:https?:)?\/\//);
  });
});

describe("paths and methods that lead nowhere", () => {
  test.each([
    ["GET", "/"],
    ["GET", "/nothing"],
    ["GET", "/devices/"],
    ["GET", "/devices/550e8400-e29b-41d4-a716-446655440000/sensors"],
    ["GET", "/Devices"],
    ["GET", "//devices"],
    ["GET", "/register"],
    ["GET", "/login"],
    ["PATCH", "/devices/550e8400-e29b-41d4-a716-446655440000"],
    ["POST", "/health"],
    ["PUT", "/devices"],
    ["DELETE", "/sensor-readings"],
    ["GET", "/docs/../config.toml"],
    ["GET", "/docs/%2e%2e/config.toml"],
    ["GET", "/__proto__"],
    ["GET", "/mqtt"],
  ])("%s %s answers 404 in the documented shape", async (method, path) => {
    const { status, body } = await api(method, path);
    expect({ status, body }).toEqual({ status: 404, body: { error: "resource not found" } });
  });
});

describe("a store that fails", () => {
  /** Another program at the store, which makes it refuse. */
  function spoil(sql: string, repair: string): () => void {
    const other = new Sqlite(gateway.storePath);
    other.exec(sql);
    return () => {
      other.exec(repair);
      other.close();
    };
  }
  const device = { name: "Room", description: "", location: "", status_id: 1 };

  test("answers 503 to what it cannot commit, says so at GET /health, and comes back by itself", async () => {
    const repair = spoil(
      "CREATE TRIGGER full BEFORE INSERT ON devices BEGIN SELECT RAISE(ROLLBACK, 'the disk is full'); END",
      "DROP TRIGGER full",
    );
    const refused = await api("POST", "/devices", device);
    const sick = await anybody("GET", "/health");
    repair();
    expect(refused).toMatchObject({ status: 503, body: { error: "the store does not take writes now" } });
    expect(sick).toMatchObject({ status: 503, body: { status: "error" } });
    expect((await api("POST", "/devices", device)).status).toBe(201);
    expect(await anybody("GET", "/health")).toMatchObject({ status: 200, body: { status: "ok" } });
    expect((await anybody("GET", "/devices")).body).toHaveLength(1);
  });

  test("answers 500 to a fault of its own, which is for the log alone", async () => {
    const repair = spoil("ALTER TABLE users RENAME TO misplaced", "ALTER TABLE misplaced RENAME TO users");
    const login = await anybody("POST", "/login", { username: "admin", password: "secret123" });
    const register = await anybody("POST", "/register", { username: "another", password: "secret123" });
    const list = await api("GET", "/devices");
    repair();
    for (const { status, body } of [login, register, list])
      expect({ status, body }).toEqual({ status: 500, body: { error: "internal error" } });
    expect(gateway.log()).toContain("no such table: users");
    expect((await api("GET", "/devices")).status).toBe(200);
  });
});

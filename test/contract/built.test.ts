import { afterAll, beforeAll, expect, test } from "vitest";
import { connectMqtt, createApi, openInbox, type Answer, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";

// The built file, a process of its own: each path of the Lambda document once, in the order of its example workflow, so
// that nothing of it was lost on the way into the bundle. What each path does in detail is in the other files.

const { folder, remove } = makeFolder();
let gateway: BuiltGateway;
let anybody: Api;
let api: Api;

beforeAll(async () => {
  gateway = await startBuiltGateway({ folder });
  anybody = createApi(gateway.url);
});
afterAll(async () => {
  await gateway.stop("SIGKILL");
  remove();
});

const shown = ({ status, body }: Answer) => ({ status, body });
const done = (message: string) => ({ status: 200, body: { message } });
const uuid = expect.stringMatching(/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z$/);
const times = { created_at: time, updated_at: time };
const published = { status: 202, body: { status: "published", topic: "lambdaiot" } };

test("the built gateway answers every path of the Lambda document as documented", async () => {
  expect(shown(await anybody("GET", "/health"))).toEqual({ status: 200, body: { status: "ok" } });
  expect(shown(await anybody("GET", "/hello"))).toEqual({ status: 200, body: { message: "hello from lambdaiot" } });

  const user = { username: "admin", password: "secret123" };
  const registered = await anybody("POST", "/register", user);
  expect(shown(registered)).toEqual({ status: 201, body: { id: uuid, username: "admin" } });
  const loggedIn = await anybody("POST", "/login", user);
  expect(shown(loggedIn)).toEqual({ status: 200, body: { token: expect.any(String) } });
  api = createApi(gateway.url, loggedIn.body.token);
  expect(shown(await api("GET", "/protected"))).toMatchObject({
    status: 200,
    body: { claims: { sub: "admin", user_id: registered.body.id, exp: expect.any(Number) } },
  });

  const client = await connectMqtt(gateway.mqttUrl);
  const inbox = await openInbox(client, "lambdaiot");

  const room = { name: "Room Sensor", description: "Living room", location: "Floor 1", status_id: 1 };
  const created = await api("POST", "/devices", room);
  expect(shown(created)).toEqual({ status: 201, body: { id: uuid } });
  const { id } = created.body;
  const device = { id, ...room, ...times };
  expect(shown(await anybody("GET", "/devices"))).toEqual({ status: 200, body: [device] });
  expect(shown(await api("GET", `/devices/${id}`))).toEqual({ status: 200, body: device });
  expect(shown(await api("PUT", `/devices/${id}`, { location: "Floor 2" }))).toEqual(done("device updated"));

  const sensor = { device_id: id, name: "Temperature", type: "temp", data_type_id: 1 };
  const parts: Record<string, string> = {};
  for (const kind of ["sensor", "actor"]) {
    const part = await api("POST", `/${kind}s`, sensor);
    expect(shown(part)).toEqual({ status: 201, body: { id: uuid } });
    const path = `/${kind}s/${part.body.id}`;
    const entry = { id: part.body.id, ...sensor, ...times };
    expect(shown(await api("GET", `/${kind}s`))).toEqual({ status: 200, body: [entry] });
    expect(shown(await api("GET", path))).toEqual({ status: 200, body: entry });
    expect(shown(await api("PUT", path, { name: "Renamed" }))).toEqual(done(`${kind} updated`));
    parts[kind] = part.body.id;
  }
  const { sensor: sensor_id, actor: actor_id } = parts;

  expect(shown(await api("POST", `/sensors/${sensor_id}/trigger`, { action: "read" }))).toEqual(published);
  expect(await inbox.next(({ type }) => type === "sensor_trigger")).toMatchObject({ sensor_id, action: "read" });
  expect(shown(await api("POST", `/actors/${actor_id}/write`, { action: "on", value: 1 }))).toEqual(published);
  expect(await inbox.next(({ type }) => type === "actor_command")).toMatchObject({ actor_id, action: "on", value: 1 });
  const ping = await api("GET", "/mqttping");
  expect(shown(ping)).toEqual({ status: 200, body: { timestamp: time, topic: "lambdaiot" } });
  expect(await inbox.next(({ type }) => type === "ping")).toEqual({ type: "ping", timestamp: ping.body.timestamp });

  const stored = await api("POST", "/sensor-readings", { sensor_id, value: 22.5, value_at: "2026-01-14T10:00:00Z" });
  expect(shown(stored)).toEqual({ status: 201, body: { id: expect.any(Number) } });
  const path = `/sensor-readings/${stored.body.id}`;
  const reading = { id: stored.body.id, sensor_id, value: 22.5, value_at: "2026-01-14T10:00:00Z" };
  const list = `/sensor-readings?sensor_id=${sensor_id}&limit=50&page=0`;
  expect(shown(await api("GET", list))).toEqual({ status: 200, body: [reading] });
  expect(shown(await api("GET", path))).toEqual({ status: 200, body: reading });
  expect(shown(await api("PUT", path, { value: 23 }))).toEqual(done("sensor reading updated"));

  await client.publishAsync("lambdaiot", JSON.stringify({ type: "sensor_reading", sensor_id, value: "23.7" }), {
    qos: 1,
  });
  const values = (await api("GET", list)).body.map(({ value }: { value: number }) => value);
  expect(values).toEqual([23.7, 23]);

  expect(shown(await api("DELETE", path))).toEqual(done("sensor reading deleted"));
  expect(shown(await api("DELETE", `/sensors/${sensor_id}`))).toEqual(done("sensor deleted"));
  expect(shown(await api("DELETE", `/actors/${actor_id}`))).toEqual(done("actor deleted"));
  expect(shown(await api("DELETE", `/devices/${id}`))).toEqual(done("device deleted"));
  await client.endAsync();
});

test("the built gateway answers every kind of documented error", async () => {
  const unknown = "550e8400-e29b-41d4-a716-446655440000";
  const error = (status: number, message: string) => ({ status, body: { error: message } });
  const wrong = { username: "admin", password: "wrong-password" };
  expect(shown(await anybody("POST", "/login", "{"))).toEqual(error(400, "invalid JSON"));
  expect(shown(await anybody("POST", "/login", wrong))).toEqual(error(401, "invalid credentials"));
  expect(shown(await anybody("GET", "/protected"))).toEqual(error(401, "no claims"));
  expect(shown(await anybody("POST", "/register", wrong))).toEqual(error(409, "username already exists"));
  for (const [kind, name] of [
    ["devices", "device"],
    ["sensors", "sensor"],
    ["actors", "actor"],
  ]) {
    expect(shown(await api("GET", `/${kind}/SC-TEMP-001`))).toEqual(error(400, `invalid ${name} id`));
    expect(shown(await api("GET", `/${kind}/${unknown}`))).toEqual(error(404, `${name} not found`));
  }
  expect(shown(await api("GET", "/sensor-readings/x"))).toEqual(error(400, "invalid reading id"));
  expect(shown(await api("GET", "/sensor-readings/999"))).toEqual(error(404, "reading not found"));
  const reading = { sensor_id: unknown, value: 1 };
  expect(shown(await api("POST", "/sensor-readings", reading))).toEqual(error(400, "sensor not found"));
  expect(shown(await api("GET", "/nothing"))).toEqual(error(404, "resource not found"));
});

test("the built gateway ends with 0 when it is asked to, and has logged no error", async () => {
  expect(await gateway.stop()).toBe(0);
  expect(gateway.log()).toMatch(/^\S+Z info  stopped/m); // this is how its lines begin
  expect(gateway.log()).not.toMatch(/^\S+Z error /m);
});

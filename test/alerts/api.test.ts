import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { logIn, until, type Answer, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// Rules and alerts as /v1 shows them, over HTTP.

const env = {
  LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000",
  LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000",
  LAMBDAIOT_ALERTS_MAX_RULES: "50",
};

let gateway: LocalGateway;
let api: Api;
let clock = Date.now();
beforeAll(async () => {
  gateway = await startLocalGateway({ env, now: () => clock });
  api = await logIn(gateway.url);
});
afterAll(() => gateway.close());

let devices = 0;

async function addDevice(): Promise<{ id: string; sensor: string }> {
  const id = `SC-RULE-${++devices}`;
  const { body } = await api("POST", "/v1/devices", { id, name: id, type: "temperature" });
  return { id, sensor: body.sensors[0].id };
}

async function addRule(rule: object): Promise<{ id: string }> {
  const { status, body } = await api("POST", "/v1/alerts/rules", rule);
  expect(status).toBe(201);
  return body;
}

const point = (id: string, value: number, to = api): Promise<Answer> =>
  to("POST", `/v1/data/${id}`, { timestamp: new Date(clock).toISOString(), value });

const listAlerts = async (query: string) => (await api("GET", `/v1/alerts?${query}`)).body;

describe("a rule", () => {
  test("is made with defaults, shown, listed, changed and deleted", async () => {
    const { id, sensor } = await addDevice();
    const made = await api("POST", "/v1/alerts/rules", { deviceId: id, condition: "gt", threshold: 30 });
    const shown = {
      id: expect.any(String) as string,
      deviceId: id,
      sensor,
      condition: "gt",
      threshold: 30,
      for: 0,
      clear: null,
      cooldown: 0,
      severity: "warning",
      enabled: true,
      createdAt: new Date(clock).toISOString().replace(".000Z", "Z"),
      updatedAt: new Date(clock).toISOString().replace(".000Z", "Z"),
    };
    expect(made).toMatchObject({ status: 201, body: shown });
    expect((await api("GET", "/v1/alerts/rules")).body.rules).toContainEqual(made.body);
    const path = `/v1/alerts/rules/${made.body.id}`;
    const changed = await api("PUT", path, { threshold: 40, for: 1.5, cooldown: 60, clear: 35, severity: "critical" });
    expect(changed).toMatchObject({
      status: 200,
      body: { ...shown, threshold: 40, for: 1.5, cooldown: 60, clear: 35, severity: "critical" },
    });
    expect(await api("DELETE", path)).toMatchObject({ status: 200, body: { success: true } });
    for (const method of ["PUT", "DELETE"]) {
      expect(await api(method, path, method === "PUT" ? {} : undefined)).toMatchObject({
        status: 404,
        body: { error: { code: "NOT_FOUND", message: "alert rule not found" } },
      });
    }
  });

  test.each([
    { condition: "gt", threshold: -1.5, clear: -2, for: 10, cooldown: 20, severity: "info", enabled: false },
    { condition: "lte", threshold: 0, clear: 0 },
    { condition: "outside", threshold: [10, 20], clear: 5 },
    { condition: "outside", threshold: [7, 7] },
    { condition: "no_data", for: 3600 },
  ])("can be sent back as it is shown: %j", async (rule) => {
    const { id } = await addDevice();
    const { body: made } = await api("POST", "/v1/alerts/rules", { deviceId: id, ...rule });
    expect(made).toMatchObject(rule);
    const { status, body } = await api("PUT", `/v1/alerts/rules/${made.id}`, made);
    expect({ status, body }).toEqual({ status: 200, body: { ...made, updatedAt: body.updatedAt } });
  });

  test("may watch a sensor of the device that is not the primary one, found by either id of the device", async () => {
    const { id } = await addDevice();
    const { uuid } = (await api("GET", `/v1/devices/${id}`)).body;
    const { body: second } = await api("POST", "/sensors", {
      device_id: uuid,
      name: "Humidity",
      type: "humidity",
      data_type_id: 2,
    });
    const made = await addRule({
      deviceId: uuid.toUpperCase(),
      sensor: second.id.toUpperCase(),
      condition: "lt",
      threshold: 20,
    });
    expect(made).toMatchObject({ deviceId: id, sensor: second.id });
  });

  test("takes new bounds with a new condition, and no others", async () => {
    const { id } = await addDevice();
    const { id: ruleId } = await addRule({ deviceId: id, condition: "gt", threshold: 30, clear: 28 });
    const path = `/v1/alerts/rules/${ruleId}`;
    expect(await api("PUT", path, { condition: "outside" })).toMatchObject({ status: 400 });
    expect(await api("PUT", path, { condition: "lt" })).toMatchObject({ status: 400 });
    expect((await api("PUT", path, { condition: "outside", threshold: [1, 2] })).body).toMatchObject({ clear: null });
    expect((await api("PUT", path, { condition: "no_data", for: 5 })).body).toMatchObject({ threshold: null, for: 5 });
  });

  const device = "SC-RULE-VALIDATION";
  beforeAll(() => api("POST", "/v1/devices", { id: device, name: device, type: "temperature" }));
  test.each([
    [{}, "deviceId is required", "deviceId"],
    [{ deviceId: device, threshold: 1 }, "condition is required", "condition"],
    [{ deviceId: device, condition: "eq", threshold: 1 }, /^condition must be one of/, "condition"],
    [{ deviceId: device, condition: "gt" }, "threshold must be a number", "threshold"],
    [{ deviceId: device, condition: "gt", threshold: null }, "threshold must be a number", "threshold"],
    [
      { deviceId: device, condition: "gt", threshold: "30" },
      "threshold must be a number, or [low, high] for outside",
      "threshold",
    ],
    [{ deviceId: device, condition: "gt", threshold: [1, 2] }, "threshold must be a number", "threshold"],
    [{ deviceId: device, condition: "gt", threshold: 30, clear: 31 }, "clear must not be above threshold", "clear"],
    [{ deviceId: device, condition: "gte", threshold: 30, clear: 31 }, "clear must not be above threshold", "clear"],
    [{ deviceId: device, condition: "lt", threshold: 30, clear: 29 }, "clear must not be below threshold", "clear"],
    [{ deviceId: device, condition: "lte", threshold: 30, clear: 29 }, "clear must not be below threshold", "clear"],
    [
      { deviceId: device, condition: "outside", threshold: 5 },
      "threshold must be [low, high] for outside",
      "threshold",
    ],
    [
      { deviceId: device, condition: "outside", threshold: [20, 10] },
      "threshold must be [low, high] for outside",
      "threshold",
    ],
    [{ deviceId: device, condition: "outside", threshold: [1, 2, 3] }, /^threshold/, "threshold"],
    [
      { deviceId: device, condition: "outside", threshold: [10, 20], clear: 5.1 },
      "clear must lie between 0 and half of the band",
      "clear",
    ],
    [
      { deviceId: device, condition: "outside", threshold: [10, 20], clear: -1 },
      "clear must lie between 0 and half of the band",
      "clear",
    ],
    [{ deviceId: device, condition: "no_data" }, "for must say how long the silence lasts", "for"],
    [{ deviceId: device, condition: "no_data", for: 0 }, "for must say how long the silence lasts", "for"],
    [{ deviceId: device, condition: "no_data", for: 0.0004 }, "for must say how long the silence lasts", "for"],
    [
      { deviceId: device, condition: "no_data", for: 60, threshold: 1 },
      "threshold does not go with no_data",
      "threshold",
    ],
    [{ deviceId: device, condition: "no_data", for: 60, clear: 1 }, "clear does not go with no_data", "clear"],
    [{ deviceId: device, condition: "gt", threshold: 1, for: -1 }, "for must be 0 or more", "for"],
    [{ deviceId: device, condition: "gt", threshold: 1, for: "1m" }, "for must be a number of seconds", "for"],
    [{ deviceId: device, condition: "gt", threshold: 1, for: 1e9 }, /^for must not be more than/, "for"],
    [{ deviceId: device, condition: "gt", threshold: 1, cooldown: -1 }, "cooldown must be 0 or more", "cooldown"],
    [{ deviceId: device, condition: "gt", threshold: 1, severity: "fatal" }, /^severity must be one of/, "severity"],
    [{ deviceId: device, condition: "gt", threshold: 1, enabled: "yes" }, "enabled must be true or false", "enabled"],
    [{ deviceId: device, condition: "gt", threshold: 1, sensor: "primary" }, "sensor must be a UUID", "sensor"],
  ])("is refused where it makes no sense: %j", async (rule, message, field) => {
    const { status, body } = await api("POST", "/v1/alerts/rules", rule);
    expect(status).toBe(400);
    expect(body.error).toMatchObject({ code: "VALIDATION_ERROR", details: { field } });
    expect(body.error.message).toMatch(message);
  });

  test("is refused for a threshold beyond all numbers", async () => {
    const body = `{"deviceId":"${device}","condition":"gt","threshold":1e999}`;
    expect(await api("POST", "/v1/alerts/rules", body)).toMatchObject({ status: 400 });
  });

  test("of a device or a sensor that is not there is not found", async () => {
    const [one, two] = [await addDevice(), await addDevice()];
    const rule = { condition: "gt", threshold: 30 };
    for (const where of [{ deviceId: "SC-NOWHERE" }, { deviceId: one.id, sensor: two.sensor }])
      expect(await api("POST", "/v1/alerts/rules", { ...where, ...rule })).toMatchObject({
        status: 404,
        body: { error: { code: "NOT_FOUND" } },
      });
  });

  test("is one of so many that the configuration allows", async () => {
    const { id } = await addDevice();
    const rule = { deviceId: id, condition: "gt", threshold: 30 };
    const made: string[] = [];
    const last = await until(async () => {
      const { status, body } = await api("POST", "/v1/alerts/rules", rule);
      if (status === 201) made.push(body.id);
      return status !== 201 && { status, code: body.error.code };
    });
    expect(last).toEqual({ status: 409, code: "CONFLICT" });
    for (const ruleId of made) await api("DELETE", `/v1/alerts/rules/${ruleId}`);
  });
});

describe("alerts", () => {
  test("are listed newest first, by state and by device, page by page", async () => {
    const [one, two] = [await addDevice(), await addDevice()];
    for (const { id } of [one, two]) await addRule({ deviceId: id, condition: "gt", threshold: 30, severity: "info" });
    const values = [
      [one, 31],
      [one, 20],
      [two, 32],
      [one, 33],
    ] as const;
    for (const [device, value] of values) {
      clock += 1_000;
      await point(device.id, value);
    }
    const ofOne = await until(async () => {
      const page = await listAlerts(`deviceId=${one.id}`);
      return page.total === 2 && page;
    });
    expect(ofOne).toMatchObject({
      alerts: [
        {
          deviceId: one.id,
          sensor: one.sensor,
          condition: "gt",
          severity: "info",
          value: 33,
          status: "active",
          resolvedAt: null,
        },
        { deviceId: one.id, value: 31, status: "resolved", resolvedAt: expect.stringMatching(/Z$/) as string },
      ],
      total: 2,
      limit: 50,
      offset: 0,
    });
    expect((await listAlerts("status=active")).alerts).toMatchObject([{ value: 33 }, { value: 32 }]);
    expect(await listAlerts(`status=resolved&deviceId=${one.id}`)).toMatchObject({ alerts: [{ value: 31 }], total: 1 });
    expect(await listAlerts(`status=resolved&deviceId=${two.id}`)).toMatchObject({ alerts: [], total: 0 });
    expect(await listAlerts("limit=1&offset=1")).toMatchObject({
      alerts: [{ value: 32 }],
      total: 3,
      limit: 1,
      offset: 1,
    });
    expect(await listAlerts("limit=1000")).toMatchObject({ limit: 100 });
    for (const query of ["status=open", "limit=-1", "offset=x"])
      expect(await api("GET", `/v1/alerts?${query}`)).toMatchObject({ status: 400 });
    expect(await api("GET", "/v1/alerts?deviceId=SC-NOWHERE")).toMatchObject({ status: 404 });
  });

  test("that are critical show as the device's status, in its detail, in lists and by the filter, until they are over", async () => {
    const { id } = await addDevice();
    await addRule({ deviceId: id, condition: "gt", threshold: 30, severity: "critical" });
    const shown = async () => {
      const { body: all } = await api("GET", "/v1/devices?limit=100");
      const { body: faulty } = await api("GET", "/v1/devices?status=error");
      return {
        detail: (await api("GET", `/v1/devices/${id}`)).body.status,
        list: all.devices.find((device: { id: string }) => device.id === id).status,
        filtered: faulty.devices.map((device: { id: string }) => device.id),
        total: faulty.total,
      };
    };
    expect(await shown()).toMatchObject({ detail: "offline", list: "offline", total: 0 });
    clock += 1_000;
    await point(id, 31);
    await until(async () => (await shown()).total === 1);
    expect(await shown()).toEqual({ detail: "error", list: "error", filtered: [id], total: 1 });
    clock += 1_000;
    await point(id, 20);
    await until(async () => (await shown()).total === 0);
    expect(await shown()).toEqual({ detail: "online", list: "online", filtered: [], total: 0 });
  });

  test("of silence fire and resolve without anybody looking", async () => {
    const { id } = await addDevice();
    await addRule({ deviceId: id, condition: "no_data", for: 10 });
    clock += 10_000;
    await until(async () => (await listAlerts(`deviceId=${id}&status=active`)).total === 1);
    await point(id, 1);
    await until(async () => (await listAlerts(`deviceId=${id}&status=resolved`)).total === 1);
    expect((await listAlerts(`deviceId=${id}`)).alerts).toMatchObject([{ condition: "no_data", value: null }]);
  });
});

test("an alert survives kill -9: it neither fires again nor is forgotten", async () => {
  const { folder, remove } = makeFolder();
  let built = await startBuiltGateway({ folder, env });
  try {
    let caller = await logIn(built.url);
    const device = { id: "SC-KILL-1", name: "Kill", type: "temperature" };
    await caller("POST", "/v1/devices", device);
    await caller("POST", "/v1/alerts/rules", {
      deviceId: device.id,
      condition: "gt",
      threshold: 30,
      severity: "critical",
    });
    const send = (value: number) =>
      caller("POST", `/v1/data/${device.id}`, { timestamp: new Date().toISOString(), value });
    const count = async (state: string) => (await caller("GET", `/v1/alerts?status=${state}`)).body.total;
    await send(31);
    await until(async () => (await count("active")) === 1);
    await send(32);
    await built.stop("SIGKILL");
    built = await startBuiltGateway({ folder, env });
    caller = await logIn(built.url);
    expect((await caller("GET", `/v1/devices/${device.id}`)).body.status).toBe("error");
    await send(33);
    await send(20);
    await until(async () => (await count("resolved")) === 1);
    expect(await count("active")).toBe(0);
    expect((await caller("GET", `/v1/devices/${device.id}`)).body.status).toBe("online");
  } finally {
    await built.stop("SIGKILL");
    remove();
  }
});

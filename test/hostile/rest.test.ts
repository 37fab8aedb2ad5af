import { request } from "node:http";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createApi, logIn, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { readMemory, readStore, smallGateway, startGoodDevice, type GoodDevice } from "./good-device.ts";

// Bad input over REST while a good device publishes: told in the documented shape, never as an error of the gateway's own;
// nothing of it stored, nothing of the good device's lost. The tests run in order; the last ones look.

const { folder, remove } = makeFolder();
let gateway: BuiltGateway;
let api: Api;
let good: GoodDevice;
let before: ReturnType<typeof readStore>;
let deviceId = "";
let actorId = "";
let readingId = 0;

beforeAll(async () => {
  gateway = await startBuiltGateway({
    folder,
    command: smallGateway,
    env: {
      LAMBDAIOT_SERVER_MAX_BODY_BYTES: "65536",
      LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000",
      LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000",
    },
  });
  api = await logIn(gateway.url);
  const device = await api("POST", "/devices", { name: "d", description: "", location: "", status_id: 1 });
  deviceId = device.body.id as string;
  actorId = (await api("POST", "/actors", { device_id: deviceId, name: "a", type: "led", data_type_id: 2 })).body
    .id as string;
  good = await startGoodDevice(gateway, api);
  readingId = (await api("POST", "/sensor-readings", { sensor_id: good.sensorId, value: -1 })).body.id as number;
  before = readStore(gateway.storePath);
});
afterAll(async () => {
  await gateway.stop("SIGKILL");
  remove();
});

interface Raw {
  status: number;
  body: unknown;
}

/** A request as given, byte for byte: fetch would not send all of these. Resolves with the answer, however early it comes. */
function send(
  method: string,
  path: string,
  headers: Record<string, string>,
  body: string | Buffer = "",
  isChunked = false,
): Promise<Raw> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(gateway.url);
    const outgoing = request({
      hostname,
      port,
      method,
      path,
      agent: false,
      // Asked to close, it would close with its answer, and the rest of a large body meet a closed door.
      headers: { Authorization: `Bearer ${api.token}`, Connection: "keep-alive", ...headers },
    });
    outgoing.once("response", (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      answer.once("end", () => {
        resolve({ status: answer.statusCode ?? 0, body: parse(text) });
        outgoing.destroy();
      });
      answer.once("error", reject);
      outgoing.off("error", reject).on("error", () => undefined); // cut off while it was still sending
    });
    outgoing.once("error", reject);
    if (isChunked) for (let at = 0; at < body.length; at += 16_384) outgoing.write(body.slice(at, at + 16_384));
    else if (body.length > 0) outgoing.setHeader("Content-Length", Buffer.byteLength(body));
    outgoing.end(isChunked ? undefined : body);
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const json = { "Content-Type": "application/json" };
const post = (path: string, body: string, isChunked = false): Promise<Raw> => send("POST", path, json, body, isChunked);

/** One clear message and nothing else: no stack, no file, no library's name. */
const refused = (status: number, message: RegExp = /./) => ({
  status,
  body: {
    error: expect.stringMatching(
      new RegExp(
        `^(?!.*(?:\\n|node_modules|\\.m?[jt]s:|[Ss]qlite|SQLITE|undefined|\\[object))(?=.*(?:${message.source}))`,
      ),
    ) as string,
  },
});
const answerOf = ({ status, body }: Raw) => ({ status, body });

const values: Record<string, unknown[]> = {
  text: [null, 1, true, [], {}, ["x"], { __proto__: null, length: 1 }],
  label: [null, 1, false, [], {}, ""],
  number: [null, "1", "", true, [], {}, [1], "NaN"],
  email: [null, 1, true, [], {}, "x", "x@", "@x"],
  integer: [null, "1", 1.5, 0, -1, 1e300, true, [], {}, 2 ** 53],
  uuid: [
    null,
    1,
    "",
    "x",
    [],
    {},
    "__proto__",
    "00000000-0000-4000-8000-00000000000",
    "{00000000-0000-4000-8000-000000000000}",
  ],
  time: [
    1,
    "",
    "yesterday",
    "2026-01-14",
    "2026-02-30T10:00:00Z",
    "2026-01-14 10:00:00",
    "2026-01-14T10:00:00",
    [],
    {},
    true,
  ],
};

interface Resource {
  path: () => string;
  /** A body that would be accepted. */
  body: () => Record<string, unknown>;
  fields: Record<string, keyof typeof values>;
}

const device: Resource["fields"] = { name: "label", description: "text", location: "text", status_id: "integer" };
const component: Resource["fields"] = { device_id: "uuid", name: "label", type: "label", data_type_id: "integer" };
const deviceBody = () => ({ name: "bad", description: "", location: "", status_id: 1 });
const componentBody = () => ({ device_id: deviceId, name: "bad", type: "t", data_type_id: 2 });
const nothing = () => ({});

const resources: [string, Resource][] = [
  ["POST /devices", { path: () => "/devices", body: deviceBody, fields: device }],
  ["PUT /devices/:id", { path: () => `/devices/${deviceId}`, body: nothing, fields: device }],
  ["POST /sensors", { path: () => "/sensors", body: componentBody, fields: component }],
  ["PUT /sensors/:id", { path: () => `/sensors/${good.sensorId}`, body: nothing, fields: component }],
  ["POST /actors", { path: () => "/actors", body: componentBody, fields: component }],
  ["PUT /actors/:id", { path: () => `/actors/${actorId}`, body: nothing, fields: component }],
  [
    "POST /actors/:id/write",
    { path: () => `/actors/${actorId}/write`, body: () => ({ action: "on" }), fields: { action: "label" } },
  ],
  [
    "POST /sensors/:id/trigger",
    { path: () => `/sensors/${good.sensorId}/trigger`, body: nothing, fields: { action: "label" } },
  ],
  [
    "POST /sensor-readings",
    {
      path: () => "/sensor-readings",
      body: () => ({ sensor_id: good.sensorId, value: -2 }),
      fields: { sensor_id: "uuid", value: "number", value_at: "time" },
    },
  ],
  [
    "PUT /sensor-readings/:id",
    { path: () => `/sensor-readings/${readingId}`, body: nothing, fields: { value: "number", value_at: "time" } },
  ],
  [
    "POST /register",
    {
      path: () => "/register",
      body: () => ({ username: "bad", password: "secret123" }),
      fields: { username: "label", password: "label", email: "email" },
    },
  ],
  [
    "POST /login",
    {
      path: () => "/login",
      body: () => ({ username: "admin", password: "secret123" }),
      fields: { username: "text", password: "text" },
    },
  ],
];

describe.each(resources)("%s", (name, { path, body, fields }) => {
  const [method = ""] = name.split(" ");

  test("refuses every field of a wrong type, by its name", async () => {
    for (const [field, kind] of Object.entries(fields)) {
      for (const value of values[kind] ?? []) {
        const answer = await api(method, path(), { ...body(), [field]: value });
        expect({ field, value, ...answerOf(answer) }).toEqual({ field, value, ...refused(400, new RegExp(field)) });
      }
    }
  });

  test("refuses what is no JSON object", async () => {
    for (const text of ["{", '{"name":', "[]", "null", "1", '"text"', "true", "NaN", "{}{}", "{'name':1}", "\0"])
      expect({ text, ...answerOf(await send(method, path(), json, text)) }).toEqual({ text, ...refused(400) });
    for (const depth of [33, 10_000, 30_000]) {
      const text = `{"x":${"[".repeat(depth)}${"]".repeat(depth)}}`;
      expect({ depth, ...answerOf(await send(method, path(), json, text)) }).toEqual({
        depth,
        ...refused(400, /invalid JSON/),
      });
    }
  });

  test("refuses another content type, and none", async () => {
    for (const headers of [
      { "Content-Type": "text/plain" },
      { "Content-Type": "application/x-www-form-urlencoded" },
      { "Content-Type": "multipart/form-data; boundary=x" },
      { "Content-Type": "application/jsonx" },
      {},
    ])
      expect({ headers, ...answerOf(await send(method, path(), headers, JSON.stringify(body()))) }).toEqual({
        headers,
        ...refused(400, /Content-Type/),
      });
  });

  test("answers 413 to a body that is too large, of a known length and of an unknown one", async () => {
    for (const size of [66_000, 1_000_000]) {
      const text = JSON.stringify({ ...body(), name: "x".repeat(size) });
      expect({ size, ...answerOf(await send(method, path(), json, text)) }).toEqual({
        size,
        ...refused(413, /larger than 65536 bytes/),
      });
      expect({ size, ...answerOf(await send(method, path(), json, text, true)) }).toEqual({
        size,
        ...refused(413, /larger than 65536 bytes/),
      });
    }
  });

  test("takes nothing from a prototype", async () => {
    const required = Object.keys(fields).filter((field) => field in body());
    const inPrototype = `{"__proto__":${JSON.stringify(body())},"constructor":{"prototype":${JSON.stringify(body())}}}`;
    const { status, body: answer } = await send(method, path(), json, inPrototype);
    // Where nothing is required it is an empty body, and changes nothing.
    expect(required.length === 0 ? [200, 202] : [400]).toContain(status);
    expect(JSON.stringify(answer)).toMatch(required.length === 0 ? /updated|published/ : /is required/);
  });
});

test("numbers beyond all are refused", async () => {
  for (const value of ["1e999", "-1e999"])
    expect(answerOf(await post("/sensor-readings", `{"sensor_id":"${good.sensorId}","value":${value}}`))).toEqual(
      refused(400, /value/),
    );
  for (const id of ["1e999", "99999999999999999999"])
    expect(answerOf(await post("/devices", `{"name":"bad","description":"","location":"","status_id":${id}}`))).toEqual(
      refused(400, /status_id/),
    );
});

test("names of 300, 60,000 and 100,000 characters are refused", async () => {
  for (const [length, status] of [
    [300, 400],
    [60_000, 400],
    [100_000, 413],
  ] as const) {
    const name = "x".repeat(length);
    expect(answerOf(await api("POST", "/devices", { ...deviceBody(), name }))).toEqual(refused(status));
    expect(answerOf(await api("POST", "/sensors", { ...componentBody(), name }))).toEqual(refused(status));
    expect(answerOf(await api("POST", "/register", { username: name, password: "secret123" }))).toEqual(
      refused(status),
    );
  }
});

const badUuids = [
  "x",
  "1",
  "-1",
  "null",
  "undefined",
  "__proto__",
  "constructor",
  "00000000-0000-4000-8000-00000000000",
  "00000000-0000-4000-8000-0000000000000",
  "00000000_0000_4000_8000_000000000000",
  "%00",
  "%2e%2e%2f",
  "..%2f..%2fetc%2fpasswd",
  "'%20OR%201=1--",
  "%F0%9F%98%80",
  "*",
  "x".repeat(2_000),
];

describe.each(["devices", "sensors", "actors"])("/%s/:id", (kind) => {
  test("refuses what is no UUID, and does not find what is not there", async () => {
    const message = new RegExp(`^invalid ${kind.slice(0, -1)} id$`);
    for (const id of badUuids) {
      for (const method of ["GET", "PUT", "DELETE"])
        expect({
          method,
          id,
          ...answerOf(await api(method, `/${kind}/${id}`, method === "PUT" ? {} : undefined)),
        }).toEqual({ method, id, ...refused(400, message) });
    }
    for (const method of ["GET", "PUT", "DELETE"])
      expect(
        answerOf(await api(method, `/${kind}/00000000-0000-4000-8000-000000000000`, method === "PUT" ? {} : undefined)),
      ).toEqual(refused(404, /not found/));
  });
});

test("/sensor-readings/:id refuses what is no id, and does not find what is not there", async () => {
  for (const id of [
    "x",
    "-1",
    "0x1",
    "1.5",
    "1e3",
    "99999999999999999999",
    "null",
    "%00",
    "%201",
    "__proto__",
    deviceId,
  ]) {
    for (const method of ["GET", "PUT", "DELETE"])
      expect({
        method,
        id,
        ...answerOf(await api(method, `/sensor-readings/${id}`, method === "PUT" ? {} : undefined)),
      }).toEqual({ method, id, ...refused(400, /^invalid reading id$/) });
  }
  for (const method of ["GET", "PUT", "DELETE"])
    expect(answerOf(await api(method, "/sensor-readings/999999999", method === "PUT" ? {} : undefined))).toEqual(
      refused(404, /not found/),
    );
});

test("/sensor-readings refuses a query that is none", async () => {
  for (const query of [
    "sensor_id=x",
    "sensor_id=",
    "limit=x",
    "limit=-1",
    "limit=1.5",
    "limit=1e3",
    "limit=",
    "page=-1",
    "page=x",
    "from=yesterday",
    "to=1",
    "limit=%00",
    "limit[]=1&limit=x",
  ])
    expect({ query, ...answerOf(await api("GET", `/sensor-readings?${query}`)) }).toEqual({ query, ...refused(400) });
});

test("broken escapes, unknown paths and methods are told in the same shape", async () => {
  for (const path of ["/devices/%", "/devices/%zz", "/devices/%c0%af", "/%", "/sensor-readings/%"])
    expect([400, 404]).toContain((await send("GET", path, {})).status);
  for (const path of ["/nothing", "/devices/a/b", "/__proto__", "/constructor", "//devices", "/DEVICES"])
    expect({ path, ...answerOf(await send("GET", path, {})) }).toEqual({ path, ...refused(404) });
  expect(answerOf(await send("PATCH", "/devices", json, "{}"))).toEqual(refused(404));
});

test("tokens that are none are refused alike", async () => {
  const anonymous = createApi(gateway.url);
  const [head, claims] = (api.token ?? "").split(".");
  for (const value of [
    "",
    "Bearer",
    "Bearer x",
    `Bearer ${head}.${claims}.`,
    `Bearer ${head}.${claims}.AAAA`,
    "Basic YTpi",
    `Bearer ${"x".repeat(5_000)}`,
    "Bearer null",
    "Bearer __proto__",
  ])
    expect({ value, ...answerOf(await anonymous("GET", "/sensors", undefined, { Authorization: value })) }).toEqual({
      value,
      ...refused(401, /^no claims$/),
    });
});

/** Every operation that takes a body, of either dialect, from the documents that the gateway itself serves. */
async function listOperations(): Promise<{ method: string; path: string; isV1: boolean }[]> {
  const found = await Promise.all(
    ["", "/v1"].map(async (prefix) => {
      const { body } = await api("GET", `${prefix}/openapi.json`);
      const base = (body.servers?.[0]?.url as string | undefined) ?? "";
      return Object.entries(body.paths as Record<string, Record<string, { requestBody?: unknown }>>).flatMap(
        ([path, methods]) =>
          Object.entries(methods)
            .filter(([, { requestBody }]) => requestBody !== undefined)
            .map(([method]) => ({
              method: method.toUpperCase(),
              path: (path.startsWith(prefix) ? "" : base.replace(/\/$/, "")) + path.replaceAll(/\{[^}]+\}/g, deviceId),
              isV1: prefix !== "",
            })),
      );
    }),
  );
  return found.flat();
}

test("no body whatever makes any operation fail, in either dialect", async () => {
  const operations = await listOperations();
  expect(operations.length).toBeGreaterThan(20);
  const bodies = [
    "",
    "{",
    "[]",
    "[[]]",
    "null",
    "1",
    '"x"',
    '{"__proto__":{"x":1}}',
    `{"x":${"[".repeat(20_000)}`,
    '{"a":1e999}',
    "\0",
    "x".repeat(70_000),
    JSON.stringify({ name: "x".repeat(60_000) }),
  ];
  const shape = {
    false: { error: expect.any(String) as string },
    true: {
      error: expect.objectContaining({
        code: expect.any(String) as string,
        message: expect.any(String) as string,
      }) as object,
    },
  };
  for (const { method, path, isV1 } of operations) {
    for (const text of bodies) {
      const { status, body } = await send(method, path, json, text);
      const context = `${method} ${path} ${text.slice(0, 30)}`;
      if (status < 400) continue; // an empty or partial body may be all right where all fields are optional
      expect({ context, body }).toEqual({ context, body: shape[`${isV1}`] });
      expect(`${status} ${context}`).toMatch(/^4/);
    }
  }
});

test("thousands of bad requests leave its memory flat", { timeout: 60_000 }, async () => {
  const large = JSON.stringify({ name: "x".repeat(1_000_000) });
  const round = async (): Promise<void> => {
    for (let i = 0; i < 25; i++) {
      await Promise.all([
        ...Array.from({ length: 20 }, (_, n) => api("POST", "/devices", { name: [n] })),
        ...Array.from({ length: 15 }, () => post("/sensor-readings", "{")),
        post("/devices", large),
        post("/devices", large, true),
      ]);
    }
  };
  await round();
  const warm = readMemory(gateway) ?? 0;
  for (let i = 0; i < 3; i++) await round();
  const after = readMemory(gateway) ?? 0;
  console.log(`${4 * 25 * 37} bad requests: ${warm.toFixed(0)} MB, then ${after.toFixed(0)} MB`);
  // What the collector has not come to yet.
  expect(after - warm).toBeLessThan(60);
});

test("nothing of it was stored, nothing of the good device's lost, and the gateway had no error of its own", async () => {
  const acknowledged = await good.finish();
  const { values: stored, ...rest } = readStore(gateway.storePath);
  const { values: _, ...restBefore } = before;
  expect(rest).toEqual(restBefore);
  expect(stored.filter((value) => value !== -1)).toEqual(acknowledged);
  expect(acknowledged.length).toBeGreaterThan(100);
  expect(await gateway.stop()).toBe(0);
  expect(
    gateway
      .log()
      .split("\n")
      .filter((line) => / error |request failed|\bat .*\.mjs/.test(line)),
  ).toEqual([]);
});

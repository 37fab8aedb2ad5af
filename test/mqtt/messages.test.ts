import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseAnnouncement, parseMessage, parseValue, type Message } from "../../src/mqtt/messages.ts";

const sensor_id = "550e8400-e29b-41d4-a716-446655440000";
const reading = { type: "sensor_reading", sensor_id, value: 23.7 };

const encode = (body: unknown): Buffer => Buffer.from(typeof body === "string" ? body : JSON.stringify(body));
const parse = (body: unknown): Message => parseMessage(encode(body));
const announce = (body: unknown): Message => parseAnnouncement(encode(body));

describe("a value", () => {
  test.each<[unknown, number]>([
    [23.7, 23.7],
    [0, 0],
    [-0, 0],
    [-40, -40],
    [1e308, 1e308],
    [5e-324, 5e-324],
    [true, 1],
    [false, 0],
    ["1", 1],
    ["0", 0],
    ["-0", 0],
    ["23.7", 23.7],
    ["+5", 5],
    ["-5.", -5],
    [".5", 0.5],
    ["007", 7],
    ["1e3", 1_000],
    ["1.5E-3", 0.0015],
    ["1e-999", 0],
  ])("%j is %d", (value, number) => {
    expect(parseValue(value)).toBe(number);
  });

  test.each(
    [
      NaN,
      Infinity,
      -Infinity,
      "",
      " ",
      " 1",
      "1 ",
      "1\n",
      "NaN",
      "Infinity",
      "-Infinity",
      "1e999",
      "-1e999",
      "0x1F",
      "0b1",
      "0o7",
      "1_000",
      "1,5",
      "1.2.3",
      "--1",
      "1e",
      "e1",
      ".",
      "-",
      "+",
      "true",
      "on",
      "١",
      "１",
      null,
      undefined,
      {},
      [],
      [1],
      { valueOf: 1 },
      10n,
    ].map((value: unknown) => [value]),
  )("%s is none", (value) => {
    expect(parseValue(value)).toBeUndefined();
  });

  test("is any finite number, written as JavaScript writes it or in more digits", () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (number) => {
        expect(parseValue(number)).toBe(number + 0);
        expect(parseValue(String(number))).toBe(number + 0);
        expect(parseValue(number.toExponential(20))).toBe(number + 0);
      }),
    );
  });

  test("is finite or none, whatever was said, and a string means what it says in decimal", () => {
    const near = fc.string({ unit: fc.constantFrom("0", "1", "9", ".", "-", "+", "e", "E", "x", " ", "_") });
    fc.assert(
      fc.property(fc.oneof(near, fc.string(), fc.anything()), (said) => {
        const value = parseValue(said);
        fc.pre(value !== undefined);
        expect(Number.isFinite(value)).toBe(true);
        expect(Object.is(value, -0)).toBe(false);
        expect(value).toBe(Number(said) + 0);
        expect(typeof said === "string" ? said : "1").toMatch(/^[-+.\deE]+$/);
      }),
      { numRuns: 500 },
    );
  });
});

describe("a reading", () => {
  test.each(["sensor_reading", "sensor_value"])("of type %s is taken, with or without its time", (type) => {
    expect(parse({ type, sensor_id, value: 23.7, value_at: "2026-01-14T11:00:00+01:00" })).toEqual({
      kind: "reading",
      sensorId: sensor_id,
      value: 23.7,
      valueAt: Date.UTC(2026, 0, 14, 10),
    });
    for (const value_at of [undefined, null])
      expect(parse({ type, sensor_id, value: 23.7, value_at })).toEqual({
        kind: "reading",
        sensorId: sensor_id,
        value: 23.7,
        valueAt: undefined,
      });
  });

  test("names its sensor in either case, and may say more than the gateway knows", () => {
    expect(parse({ ...reading, sensor_id: sensor_id.toUpperCase(), rssi: -60, nested: { a: [1] } })).toMatchObject({
      kind: "reading",
      sensorId: sensor_id,
    });
  });

  test.each([
    [{ ...reading, sensor_id: undefined }, "sensor_id is required"],
    [{ ...reading, sensor_id: "sensor-0" }, "sensor_id must be a UUID"],
    [{ ...reading, sensor_id: 7 }, "sensor_id must be a UUID"],
    [{ ...reading, sensor_id: [sensor_id] }, "sensor_id must be a UUID"],
    [{ ...reading, value: undefined }, "value is required"],
    [{ ...reading, value: null }, "value must be a finite number, a boolean or a decimal string"],
    [{ ...reading, value: "warm" }, "value must be a finite number, a boolean or a decimal string"],
    [{ ...reading, value: [1] }, "value must be a finite number, a boolean or a decimal string"],
    [
      `{"type":"sensor_reading","sensor_id":"${sensor_id}","value":1e999}`,
      "value must be a finite number, a boolean or a decimal string",
    ],
    [{ ...reading, value_at: "" }, "value_at must be an RFC 3339 time, such as 2026-01-14T10:00:00Z"],
    [{ ...reading, value_at: 1_768_384_800 }, "value_at must be an RFC 3339 time, such as 2026-01-14T10:00:00Z"],
    [
      { ...reading, value_at: "2026-02-30T10:00:00Z" },
      "value_at must be an RFC 3339 time, such as 2026-01-14T10:00:00Z",
    ],
  ])("%j is rejected: %s", (body, detail) => {
    expect(parse(body)).toEqual({ kind: "rejected", reason: "bad_reading", detail });
  });

  test("whose value a prototype would give has none", () => {
    expect(parse(`{"type":"sensor_reading","sensor_id":"${sensor_id}","__proto__":{"value":1}}`)).toMatchObject({
      kind: "rejected",
      reason: "bad_reading",
    });
    expect(parse(`{"__proto__":{"type":"sensor_reading"},"sensor_id":"${sensor_id}","value":1}`)).toEqual({
      kind: "other",
    });
  });
});

describe("an answer to a check", () => {
  const device_id = sensor_id;
  test.each(["ok", "lost", "pending", "error"])("%s is taken", (status) => {
    expect(parse({ type: "device_check_response", device_id, status })).toEqual({
      kind: "check-response",
      deviceId: device_id,
      status,
    });
  });

  test.each([
    [{ device_id, status: "disabled" }, "status must be ok, lost, pending or error"],
    [{ device_id, status: "OK" }, "status must be ok, lost, pending or error"],
    [{ device_id, status: 1 }, "status must be ok, lost, pending or error"],
    [{ device_id }, "status is required"],
    [{ status: "ok" }, "device_id is required"],
    [{ device_id: "aabbccddeeff", status: "ok" }, "device_id must be a UUID"],
  ])("%j is rejected: %s", (body, detail) => {
    expect(parse({ type: "device_check_response", ...body })).toEqual({
      kind: "rejected",
      reason: "bad_response",
      detail,
    });
  });
});

test.each([
  { type: "sensor_trigger", sensor_id, action: "read" },
  { type: "actor_command", actor_id: sensor_id, action: "on" },
  { type: "device_check_request", device_id: sensor_id },
  { type: "ping" },
  { type: "Sensor_Reading", sensor_id, value: 1 },
  { type: ["sensor_reading"], sensor_id, value: 1 },
  { type: null },
  { type: 7 },
  { type: "constructor" },
  {},
])("%j is none of the gateway's business", (body) => {
  expect(parse(body)).toEqual({ kind: "other" });
});

test.each([
  ["nothing", Buffer.alloc(0)],
  ["a text", encode("23.7 degrees")],
  ["a number", encode("23.7")],
  ["null", encode("null")],
  ["a list", encode([reading])],
  ["a string", encode('"sensor_reading"')],
  ["an object cut off", encode(JSON.stringify(reading).slice(0, -1))],
  ["two objects", encode(`${JSON.stringify(reading)}${JSON.stringify(reading)}`)],
  ["a byte order mark", encode(`\ufeff${JSON.stringify(reading)}`)],
  ["UTF-16", Buffer.from(JSON.stringify(reading), "utf16le")],
  [
    "broken UTF-8",
    Buffer.concat([encode(JSON.stringify(reading).slice(0, -2)), Buffer.from([0xc3, 0x28]), encode('"}')]),
  ],
  ["half a surrogate pair", Buffer.from([0x22, 0xed, 0xa0, 0xbd, 0x22])],
  ["a hundred thousand brackets", encode("[".repeat(100_000))],
  ["33 levels", encode(`{"type":"sensor_reading","a":${"[".repeat(32)}${"]".repeat(32)}}`)],
])("%s is no message", (_, payload) => {
  expect(parseMessage(payload)).toEqual({ kind: "rejected", reason: "not_json" });
  expect(parseAnnouncement(payload)).toEqual({ kind: "rejected", reason: "not_json" });
});

test("a message that is part of a larger buffer is read from its own bytes alone", () => {
  const all = Buffer.concat([encode('{"a":'), encode(reading), encode("}}}")]);
  const part = new Uint8Array(all.buffer, all.byteOffset + 5, encode(reading).length);
  expect(parseMessage(part)).toMatchObject({ kind: "reading", value: 23.7 });
});

describe("an announcement", () => {
  const mac_address = "AA:BB:CC:DD:EE:FF";
  const derived = "3814fb88-565c-5dc8-9b91-60d4002b6edc";

  test("of the document is taken, its status aside", () => {
    const id = sensor_id;
    const body = {
      mac_address: "00:11:22:33:44:55",
      device: { id, name: "Device Name", description: "Device Description", location: "Device Location", status_id: 4 },
      sensors: [{ id, name: "Temperature Sensor", type: "temperature", data_type_id: 1 }],
      actors: [{ id, name: "LED Actuator", type: "led", data_type_id: 2 }],
    };
    expect(announce(body)).toEqual({
      kind: "announcement",
      announcement: {
        id,
        mac: "001122334455",
        name: "Device Name",
        description: "Device Description",
        location: "Device Location",
        sensors: [{ id, name: "Temperature Sensor", type: "temperature", dataTypeId: 1 }],
        actors: [{ id, name: "LED Actuator", type: "led", dataTypeId: 2 }],
      },
    });
  });

  test.each([mac_address, "aa-bb-cc-dd-ee-ff", "aabb.ccdd.eeff", "aabbccddeeff"])(
    "with the MAC address %s alone derives the device's id from it",
    (written) => {
      expect(announce({ mac_address: written })).toMatchObject({
        kind: "announcement",
        announcement: { id: derived, mac: "aabbccddeeff", sensors: [], actors: [] },
      });
    },
  );

  test("may leave out, or leave null, or leave empty what the gateway can do without", () => {
    const expected = { id: derived, sensors: [{}], actors: [] };
    for (const body of [
      { mac_address, sensors: [{}] },
      { mac_address, device: null, sensors: [{ id: null, name: null, type: null, data_type_id: null }], actors: null },
      { mac_address, device: { id: null, name: "" }, sensors: [{ name: "", type: "" }], actors: [] },
    ])
      expect(announce(body)).toMatchObject({ kind: "announcement", announcement: expected });
    expect(announce({ mac_address, device: { description: "" } })).toMatchObject({ announcement: { description: "" } });
  });

  test.each([
    [{}, "neither mac_address nor device.id is given"],
    [{ device: {} }, "neither mac_address nor device.id is given"],
    [{ mac_address: "AA:BB" }, "mac_address must be a MAC address"],
    [{ mac_address: 7 }, "mac_address must be a MAC address"],
    [{ device: { id: "roof" } }, "device.id must be a UUID"],
    [{ mac_address, device: { name: 7 } }, "device.name must be a string"],
    [{ mac_address, device: { name: "x".repeat(256) } }, "device.name must not be longer than 255 characters"],
    [
      { mac_address, device: { description: "x".repeat(2_001) } },
      "device.description must not be longer than 2000 characters",
    ],
    [{ mac_address, sensors: [{ id: "0" }] }, "sensors.0.id must be a UUID"],
    [{ mac_address, sensors: [{}, { data_type_id: 0 }] }, "sensors.1.data_type_id must be an integer of 1 or more"],
    [{ mac_address, actors: [{ data_type_id: 1.5 }] }, "actors.0.data_type_id must be an integer of 1 or more"],
  ])("%j is rejected: %s", (body, detail) => {
    expect(announce(body)).toEqual({ kind: "rejected", reason: "bad_announcement", detail });
  });

  test.each(["sensors", "actors"])("names 256 %s at most", (list) => {
    const listing = (length: number) => announce({ mac_address, [list]: Array.from({ length }, () => ({})) });
    expect(listing(256)).toMatchObject({ kind: "announcement", announcement: { [list]: { length: 256 } } });
    expect(listing(257)).toEqual({
      kind: "rejected",
      reason: "bad_announcement",
      detail: `${list} must not be longer than 256`,
    });
  });

  test.each([{ device: "roof" }, { sensors: {} }, { sensors: "none" }, { actors: [null] }, { sensors: [7] }])(
    "with %j is rejected",
    (body) => {
      expect(announce({ mac_address, ...body })).toMatchObject({ kind: "rejected", reason: "bad_announcement" });
    },
  );
});

describe("whatever comes", () => {
  const kinds = ["reading", "check-response", "announcement", "other", "rejected"];

  /** Throws where parsing does. */
  const areMessages = (payload: Uint8Array): boolean =>
    [parseMessage(payload), parseAnnouncement(payload)].every(
      (message) => kinds.includes(message.kind) && (message.kind !== "reading" || Number.isFinite(message.value)),
    );

  test("bytes are told apart without a fault", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(areMessages(bytes)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test("JSON is told apart without a fault", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(areMessages(encode(JSON.stringify(value)))).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test("what looks like a message, and is wrong somewhere, is told apart without a fault", () => {
    const any = fc.oneof(
      fc.jsonValue({ maxDepth: 2 }),
      fc.constantFrom(sensor_id, "ok", "AA:BB:CC:DD:EE:FF", 1, true, "1"),
    );
    const component = fc.record({ id: any, name: any, type: any, data_type_id: any }, { requiredKeys: [] });
    const body = fc.record(
      {
        type: fc.oneof(any, fc.constantFrom("sensor_reading", "sensor_value", "device_check_response")),
        sensor_id: any,
        value: any,
        value_at: fc.oneof(any, fc.constant("2026-01-14T10:00:00Z")),
        device_id: any,
        status: any,
        mac_address: any,
        device: fc.oneof(any, fc.record({ id: any, name: any, description: any }, { requiredKeys: [] })),
        sensors: fc.oneof(any, fc.array(fc.oneof(any, component), { maxLength: 3 })),
        actors: fc.oneof(any, fc.array(component, { maxLength: 3 })),
        ["__proto__"]: any,
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(body, (value) => {
        expect(areMessages(encode(JSON.stringify(value)))).toBe(true);
      }),
      { numRuns: 1_000 },
    );
    expect(({} as { type?: unknown }).type).toBeUndefined();
  });
});

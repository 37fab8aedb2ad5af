import * as fc from "fast-check";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { deleteComponent, listComponents, updateComponent } from "../../src/core/components.ts";
import { deleteDevice, listDevices, updateDevice } from "../../src/core/devices.ts";
import { announceDevice, type Announcement } from "../../src/core/discovery.ts";
import { deriveComponentId, deriveDeviceId } from "../../src/core/ids.ts";
import { createReading, listReadings } from "../../src/core/readings.ts";
import { addComponent, addDevice, openTestStore, start, type TestStore } from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

const room = { maxDevices: 10_000 };
const deviceId = deriveDeviceId("aabbccddeeff");
const base: Announcement = { id: deviceId, mac: "aabbccddeeff", sensors: [], actors: [] };

let t: TestStore;
beforeAll(() => (t = openTestStore()) && undefined);
afterAll(() => t.close());
const clear = () =>
  t.commit((ctx) => {
    for (const { id } of listDevices(ctx)) deleteDevice(ctx, id);
  });
afterEach(async () => {
  t.clock.at = start;
  await clear();
});

const announce = (announcement: Announcement, options = room) =>
  t.commit((ctx) => announceDevice(ctx, announcement, options));
const device = () => t.read(listDevices)[0];
const sensors = () => t.read((ctx) => listComponents(ctx, "sensor"));
const actors = () => t.read((ctx) => listComponents(ctx, "actor"));
const state = () => ({ devices: t.read(listDevices), sensors: sensors(), actors: actors() });
const totalChanges = () => t.store.db.$client.prepare("SELECT total_changes()").pluck().get();

describe("a device that is new", () => {
  test("comes into being with its sensors and actors", async () => {
    const result = await announce({
      ...base,
      name: "Weather",
      description: "On the roof",
      location: "Roof",
      sensors: [{ name: "Temperature", type: "temperature", dataTypeId: 1 }, { name: "Wind" }],
      actors: [{ name: "Heater", type: "relay", dataTypeId: 1 }],
    });
    expect(result).toEqual({ foreign: [] });
    expect(device()).toMatchObject({
      id: "3814fb88-565c-5dc8-9b91-60d4002b6edc",
      mac: "aabbccddeeff",
      name: "Weather",
      description: "On the roof",
      location: "Roof",
      statusId: 1,
      lastSeenAt: start,
      createdAt: start,
    });
    expect(sensors()).toMatchObject([
      { id: "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947", deviceId, name: "Temperature", type: "temperature", dataTypeId: 1 },
      { id: deriveComponentId(deviceId, "sensor", 1), deviceId, name: "Wind", type: "unknown", dataTypeId: 2 },
    ]);
    expect(actors()).toMatchObject([
      { id: "6cc20cc6-7740-5548-8444-6a33cf4271fd", deviceId, name: "Heater", type: "relay", dataTypeId: 1 },
    ]);
  });

  test("is called by its MAC address, else its id, until it has a name", async () => {
    await announce(base);
    expect(device()?.name).toBe("aabbccddeeff");
    await clear();
    await announce({ id: deviceId, sensors: [{}], actors: [{}, {}] });
    expect(device()).toMatchObject({ name: deviceId, mac: null });
    expect([...sensors(), ...actors()].map(({ name }) => name)).toEqual(["sensor-0", "actor-0", "actor-1"]);
  });

  test("keeps the ids that it gives", async () => {
    const id = "550e8400-e29b-41d4-a716-446655440000";
    await announce({ ...base, sensors: [{}, { id }, {}] });
    expect(sensors().map((sensor) => sensor.id)).toEqual([
      deriveComponentId(deviceId, "sensor", 0),
      id,
      deriveComponentId(deviceId, "sensor", 2),
    ]);
  });

  test("is refused where there is no room for another one; those that are known are not", async () => {
    expect(await announce(base, { maxDevices: 0 })).toEqual({ foreign: [], refusal: "too_many_devices" });
    expect(state()).toEqual({ devices: [], sensors: [], actors: [] });
    await announce(base, { maxDevices: 1 });
    expect((await announce({ ...base, name: "Weather" }, { maxDevices: 1 })).refusal).toBeUndefined();
    expect(device()?.name).toBe("Weather");
    expect((await announce({ ...base, id: deriveDeviceId("000000000001") }, { maxDevices: 1 })).refusal).toBe(
      "too_many_devices",
    );
  });
});

describe("a device that is known", () => {
  test("changes in what it announces otherwise, and in nothing that it leaves out", async () => {
    await announce({ ...base, name: "Weather", location: "Roof", sensors: [{ name: "T", type: "temperature" }] });
    t.clock.at += 60_000;
    await announce({ id: deviceId, location: "Garden", sensors: [{ name: "Temp" }], actors: [] });
    expect(device()).toMatchObject({
      name: "Weather",
      mac: "aabbccddeeff",
      location: "Garden",
      createdAt: start,
      updatedAt: start + 60_000,
      lastSeenAt: start + 60_000,
    });
    expect(sensors()).toMatchObject([{ name: "Temp", type: "temperature", updatedAt: start + 60_000 }]);
  });

  test("keeps what a user has set over REST, field by field", async () => {
    const announced: Announcement = {
      ...base,
      name: "Weather",
      location: "Roof",
      sensors: [{ name: "T", type: "temperature" }],
      actors: [{ name: "Heater" }],
    };
    await announce(announced);
    await t.commit((ctx) => {
      updateDevice(ctx, deviceId, { name: "My weather" });
      updateComponent(ctx, "sensor", sensors()[0]?.id ?? "", { name: "Outside" });
      updateComponent(ctx, "actor", actors()[0]?.id ?? "", { name: "Heater" });
    });
    await announce({
      ...announced,
      name: "Weather 2",
      location: "Garden",
      sensors: [{ name: "T 2", type: "temp" }],
      actors: [{ name: "Oven" }],
    });
    expect(device()).toMatchObject({ name: "My weather", location: "Garden" });
    expect(sensors()).toMatchObject([{ name: "Outside", type: "temp" }]);
    expect(actors()).toMatchObject([{ name: "Heater" }]);
    await t.reopen();
    await announce(announced);
    expect(device()).toMatchObject({ name: "My weather", location: "Roof" });
  });

  test.each([
    ["ok", 1, 1],
    ["pending", 2, 1],
    ["lost", 3, 1],
    ["disabled", 4, 4],
  ])("that is %s (%i) has status %i afterwards", async (_, before, after) => {
    await announce(base);
    await t.commit((ctx) => updateDevice(ctx, deviceId, { statusId: before }));
    await announce(base);
    expect(device()?.statusId).toBe(after);
  });

  test("keeps a sensor that it no longer announces, inactive and with its readings, until it does again", async () => {
    const both: Announcement = { ...base, sensors: [{ name: "T" }, { name: "H" }], actors: [{ name: "Heater" }] };
    await announce(both);
    const [kept, dropped] = sensors();
    const sensorId = dropped?.id ?? "";
    await t.commit((ctx) => createReading(ctx, { sensorId, value: 55 }));
    await announce({ ...base, sensors: [{ name: "T" }] });
    expect(sensors().map(({ id, isActive }) => [id, isActive])).toEqual([
      [kept?.id, true],
      [sensorId, false],
    ]);
    expect(actors().map(({ isActive }) => isActive)).toEqual([false]);
    expect(t.read((ctx) => runToEnd(listReadings(ctx, { sensorId, limit: 10, offset: 0 })))).toHaveLength(1);
    await announce(both);
    expect([...sensors(), ...actors()].map(({ isActive }) => isActive)).toEqual([true, true, true]);
    expect(t.read((ctx) => runToEnd(listReadings(ctx, { sensorId, limit: 10, offset: 0 })))).toHaveLength(1);
  });

  test("brings back a sensor that a user has deleted, without its old readings", async () => {
    await announce({ ...base, sensors: [{ name: "T" }] });
    const sensorId = sensors()[0]?.id ?? "";
    await t.commit((ctx) => createReading(ctx, { sensorId, value: 20 }));
    await t.commit((ctx) => deleteComponent(ctx, "sensor", sensorId));
    await announce({ ...base, sensors: [{ name: "T" }] });
    expect(sensors()).toMatchObject([{ id: sensorId, isActive: true }]);
    expect(t.read((ctx) => runToEnd(listReadings(ctx, { sensorId, limit: 10, offset: 0 })))).toEqual([]);
  });

  test.each(["sensor", "actor"] as const)("cannot take over another device's %s", async (kind) => {
    const owner = await t.commit((ctx) => addDevice(ctx));
    const theirs = await t.commit((ctx) => addComponent(ctx, kind, owner.id));
    const claim = [{ id: theirs.id, name: "Mine now" }, { name: "Own" }];
    const result = await announce({ ...base, sensors: [], actors: [], [`${kind}s`]: claim });
    expect(result).toEqual({ foreign: [theirs.id] });
    const all = t.read((ctx) => listComponents(ctx, kind));
    expect(all.find(({ id }) => id === theirs.id)).toEqual(theirs);
    expect(all.filter((component) => component.deviceId === deviceId)).toMatchObject([{ name: "Own" }]);
  });

  test("that names one sensor twice is taken at its first word, each time", async () => {
    const id = "550e8400-e29b-41d4-a716-446655440000";
    const twice: Announcement = {
      ...base,
      sensors: [
        { id, name: "First" },
        { id, name: "Second" },
      ],
    };
    await announce(twice);
    const before = state();
    t.clock.at += 500;
    await announce(twice);
    expect(state()).toEqual(before);
    expect(sensors()).toMatchObject([{ id, name: "First" }]);
  });
});

describe("any announcements", () => {
  const text = fc.option(fc.constantFrom("", "A", "B", "Ž", "__proto__"), { nil: undefined });
  // A small pool of ids of its own, so that announcements share some; without one the place in the list decides.
  const ownId = fc.option(
    fc.nat(5).map((n) => `550e8400-e29b-41d4-a716-44665544000${n}`),
    { nil: undefined },
  );
  const component = fc.record({
    id: ownId,
    name: text,
    type: text,
    dataTypeId: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
  });
  const announcement: fc.Arbitrary<Announcement> = fc.record({
    id: fc.constant(deviceId),
    mac: fc.constantFrom(undefined, "aabbccddeeff"),
    name: text,
    description: text,
    location: text,
    sensors: fc.array(component, { maxLength: 6 }),
    actors: fc.array(component, { maxLength: 6 }),
  });

  test("said twice are as said once: the second time writes nothing", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(announcement, { maxLength: 3 }), announcement, async (earlier, last) => {
        await clear();
        for (const one of earlier) await announce(one);
        await announce(last);
        const before = state();
        const changes = totalChanges();
        t.clock.at += 999; // the time of the last sign of life is kept to a second
        await announce(last);
        expect(totalChanges()).toBe(changes);
        expect(state()).toEqual(before);
      }),
      { numRuns: 60 },
    );
  });

  test("leave active what the last one names, and lose nothing that an earlier one named", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(announcement, { minLength: 1, maxLength: 4 }), async (all) => {
        await clear();
        const named = ({ sensors }: Announcement) =>
          sensors.map(({ id }, position) => id ?? deriveComponentId(deviceId, "sensor", position));
        for (const one of all) await announce(one);
        const found = sensors();
        expect(new Set(found.map(({ id }) => id))).toEqual(new Set(all.flatMap(named)));
        const active = found.filter(({ isActive }) => isActive).map(({ id }) => id);
        expect(new Set(active)).toEqual(new Set(named(all.at(-1) as Announcement)));
      }),
      { numRuns: 40 },
    );
  });
});

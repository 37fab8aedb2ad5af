import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { getComponent, listComponents } from "../../src/core/components.ts";
import {
  deleteDevice,
  findDevice,
  getDevice,
  listCheckedDevices,
  listDevices,
  markLost,
  noteMessage,
  recordCheckResponse,
  requireDevice,
  updateDevice,
  type Device,
} from "../../src/core/devices.ts";
import { addComponent, addDevice, collect, countRows, openTestStore, start, type TestStore } from "../support/store.ts";

let t: TestStore;
beforeEach(() => (t = openTestStore()) && undefined);
afterEach(() => t.close());

// As the document numbers them.
const [ok, pending, lost, disabled] = [1, 2, 3, 4];
const get = ({ id }: Device) => t.read((ctx) => getDevice(ctx, id));
/** The ids of the devices whose change of status is told from now on. */
function collectChanges(): string[] {
  const ids: string[] = [];
  t.bus.on("device.status", ({ deviceId }) => void ids.push(deviceId));
  return ids;
}
const unknown = "550e8400-e29b-41d4-a716-446655440000";

describe("devices", () => {
  test("a new one is found by its id, as it was given", async () => {
    const device = await t.commit((ctx) => addDevice(ctx, { statusId: pending }));
    expect(device).toMatchObject({
      name: "Room Sensor",
      description: "Living room",
      location: "Floor 1",
      statusId: pending,
      lastSeenAt: null,
      createdAt: start,
      updatedAt: start,
    });
    expect(get(device)).toEqual(device);
    expect(t.read((ctx) => findDevice(ctx, device.id))).toEqual(device);
  });

  test("an unknown one is not found in a path, and invalid in a body", () => {
    expect(t.read((ctx) => findDevice(ctx, unknown))).toBeUndefined();
    expect(() => t.read((ctx) => getDevice(ctx, unknown))).toThrow(
      expect.objectContaining({ code: "not_found", message: "device not found" }),
    );
    expect(() => t.read((ctx) => requireDevice(ctx, unknown))).toThrow(
      expect.objectContaining({ code: "invalid", message: "device not found" }),
    );
  });

  test("are listed oldest first, those of one instant in order of arrival", async () => {
    const make = (name: string, at: number) => {
      t.clock.at = at;
      return t.commit((ctx) => addDevice(ctx, { name }));
    };
    await make("second", start + 1);
    await make("third", start + 1);
    await make("first", start);
    await make("fourth", start + 2);
    expect(t.read(listDevices).map(({ name }) => name)).toEqual(["first", "second", "third", "fourth"]);
  });

  test("an update changes what is given, and the time of the change", async () => {
    const device = await t.commit((ctx) => addDevice(ctx));
    t.clock.at += 5_000;
    await t.commit((ctx) => updateDevice(ctx, device.id, { name: "Cellar", location: "" }));
    const { editedFields, ...rest } = get(device);
    expect(rest).toEqual({
      ...Object.fromEntries(Object.entries(device).filter(([key]) => key !== "editedFields")),
      name: "Cellar",
      location: "",
      updatedAt: start + 5_000,
    });
    expect(editedFields.toSorted()).toEqual(["location", "name"]);
  });

  test("what an update leaves out or leaves undefined does not count as set by a user", async () => {
    const device = await t.commit((ctx) => addDevice(ctx));
    await t.commit((ctx) => updateDevice(ctx, device.id, { name: undefined, location: "Attic" }));
    await t.commit((ctx) => updateDevice(ctx, device.id, {}));
    await t.commit((ctx) => updateDevice(ctx, device.id, { statusId: disabled }));
    expect(get(device)).toMatchObject({ name: "Room Sensor", location: "Attic", editedFields: ["location"] });
  });

  test("an update says a change of status once, and only a change", async () => {
    const device = await t.commit((ctx) => addDevice(ctx));
    const changed = collectChanges();
    await t.commit((ctx) => updateDevice(ctx, device.id, { statusId: ok }));
    await t.commit((ctx) => updateDevice(ctx, device.id, { name: "Cellar" }));
    expect(changed).toEqual([]);
    await t.commit((ctx) => updateDevice(ctx, device.id, { statusId: disabled }));
    await t.commit((ctx) => updateDevice(ctx, device.id, { statusId: disabled }));
    expect(changed).toEqual([device.id]);
  });

  test("an unknown one is neither updated nor deleted", async () => {
    await expect(t.commit((ctx) => updateDevice(ctx, unknown, { name: "x" }))).rejects.toMatchObject({
      code: "not_found",
    });
    await expect(t.commit((ctx) => deleteDevice(ctx, unknown))).rejects.toMatchObject({ code: "not_found" });
  });

  test("a deletion takes the sensors and actors of that device and of no other", async () => {
    const device = await t.commit((ctx) => addDevice(ctx));
    const other = await t.commit((ctx) => addDevice(ctx));
    const [sensor, actor] = await t.commit((ctx) => [
      addComponent(ctx, "sensor", device.id),
      addComponent(ctx, "actor", device.id),
    ]);
    const [kept] = await t.commit((ctx) => [
      addComponent(ctx, "sensor", other.id),
      addComponent(ctx, "actor", other.id),
    ]);
    const removed = collect(t.bus, "sensors.removed");
    await t.commit((ctx) => deleteDevice(ctx, device.id));
    expect(removed).toEqual([{ count: 1 }]);
    expect(t.read(listDevices)).toEqual([other]);
    expect(t.read((ctx) => listComponents(ctx, "sensor"))).toEqual([kept]);
    expect(t.read((ctx) => listComponents(ctx, "actor"))).toHaveLength(1);
    expect(() => t.read((ctx) => getComponent(ctx, "sensor", sensor?.id ?? ""))).toThrow("sensor not found");
    expect(() => t.read((ctx) => getComponent(ctx, "actor", actor?.id ?? ""))).toThrow("actor not found");
  });

  test("a deletion of a device without sensors has nothing to remove in the background", async () => {
    const device = await t.commit((ctx) => addDevice(ctx));
    await t.commit((ctx) => addComponent(ctx, "actor", device.id));
    const removed = collect(t.bus, "sensors.removed");
    await t.commit((ctx) => deleteDevice(ctx, device.id));
    expect(removed).toEqual([]);
    expect(countRows(t, "purges")).toBe(0);
  });
});

describe("signs of life", () => {
  const note = (device: Device) => t.commit((ctx) => noteMessage(ctx, getDevice(ctx, device.id)));

  test("are kept to a second", async () => {
    const device = await t.commit((ctx) => addDevice(ctx));
    await note(device);
    expect(get(device).lastSeenAt).toBe(start);
    t.clock.at = start + 999;
    await note(device);
    expect(get(device).lastSeenAt).toBe(start);
    t.clock.at = start + 1_000;
    await note(device);
    expect(get(device)).toMatchObject({ lastSeenAt: start + 1_000, updatedAt: start });
  });

  test("follow a clock that was set back", async () => {
    const device = await t.commit((ctx) => addDevice(ctx));
    await note(device);
    t.clock.at = start - 3_600_000;
    await note(device);
    expect(get(device).lastSeenAt).toBe(start - 3_600_000);
  });

  test.each([
    ["bring a lost device back", lost],
    ["are what a pending device was waited for", pending],
  ])("%s, once", async (_, statusId) => {
    const device = await t.commit((ctx) => addDevice(ctx, { statusId }));
    const changed = collectChanges();
    await note(device);
    await note(device);
    expect(get(device).statusId).toBe(ok);
    expect(changed).toEqual([device.id]);
  });

  test("leave a disabled device as it is", async () => {
    const device = await t.commit((ctx) => addDevice(ctx, { statusId: disabled }));
    await note(device);
    expect(get(device).statusId).toBe(disabled);
  });
});

describe("answers to a check", () => {
  const respond = (id: string, status: "ok" | "lost" | "pending") =>
    t.commit((ctx) => recordCheckResponse(ctx, id, status));

  test.each([
    ["ok", ok],
    ["pending", pending],
    ["lost", lost],
  ] as const)("%s is taken as said", async (status, statusId) => {
    const device = await t.commit((ctx) => addDevice(ctx, { statusId: status === "ok" ? lost : ok }));
    const changed = collectChanges();
    expect(await respond(device.id, status)).toBe("recorded");
    expect(await respond(device.id, status)).toBe("recorded");
    expect(get(device)).toMatchObject({ statusId, lastSeenAt: start });
    expect(changed).toEqual([device.id]);
  });

  test("a disabled device stays disabled, and is seen", async () => {
    const device = await t.commit((ctx) => addDevice(ctx, { statusId: disabled }));
    expect(await respond(device.id, "ok")).toBe("recorded");
    expect(get(device)).toMatchObject({ statusId: disabled, lastSeenAt: start });
  });

  test("an unknown device is told apart", async () => {
    expect(await respond(unknown, "ok")).toBe("unknown");
  });
});

describe("markLost", () => {
  test("spares a device that was heard, disabled or deleted since it was looked at", async () => {
    const [silent, heard, switchedOff, gone] = (await t.commit((ctx) =>
      Array.from({ length: 4 }, () => addDevice(ctx)),
    )) as [Device, Device, Device, Device];
    const looked = t.read(listCheckedDevices);
    await t.commit((ctx) => {
      recordCheckResponse(ctx, heard.id, "ok");
      updateDevice(ctx, switchedOff.id, { statusId: disabled });
      deleteDevice(ctx, gone.id);
    });
    const changed = collectChanges();
    await t.commit((ctx) => markLost(ctx, looked));
    expect(get(silent).statusId).toBe(lost);
    expect(get(heard).statusId).toBe(ok);
    expect(get(switchedOff).statusId).toBe(disabled);
    expect(changed).toEqual([silent.id]);
  });

  test("all are looked at but the disabled", async () => {
    await t.commit((ctx) => {
      for (const statusId of [ok, pending, lost, disabled]) addDevice(ctx, { statusId });
    });
    expect(t.read(listCheckedDevices).map(({ statusId }) => statusId)).toEqual([ok, pending, lost]);
  });
});

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  createComponent,
  deleteComponent,
  findComponent,
  getComponent,
  listComponents,
  updateComponent,
} from "../../src/core/components.ts";
import { createReading, listReadings } from "../../src/core/readings.ts";
import { addComponent, addDevice, collect, countRows, openTestStore, start, type TestStore } from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

let t: TestStore;
beforeEach(() => (t = openTestStore()) && undefined);
afterEach(() => t.close());

const unknown = "550e8400-e29b-41d4-a716-446655440000";

describe.each(["sensor", "actor"] as const)("a %s", (kind) => {
  const other = kind === "sensor" ? "actor" : "sensor";
  const get = (id: string) => t.read((ctx) => getComponent(ctx, kind, id));

  test("is found by its id, as it was given, and only among its kind", async () => {
    const device = await t.commit((ctx) => addDevice(ctx));
    const fields = { deviceId: device.id, name: "Door", type: "contact", dataTypeId: 7 };
    const component = await t.commit((ctx) => createComponent(ctx, kind, fields));
    expect(component).toMatchObject({
      ...fields,
      isActive: true,
      editedFields: [],
      createdAt: start,
      updatedAt: start,
    });
    expect(get(component.id)).toEqual(component);
    expect(t.read((ctx) => findComponent(ctx, other, component.id))).toBeUndefined();
  });

  test("of an unknown device is refused", async () => {
    const made = t.commit((ctx) =>
      createComponent(ctx, kind, { deviceId: unknown, name: "Door", type: "contact", dataTypeId: 1 }),
    );
    await expect(made).rejects.toMatchObject({ code: "invalid", message: "device not found" });
    expect(countRows(t, `${kind}s`)).toBe(0);
  });

  test("that is unknown is not found, updated or deleted", async () => {
    const notFound = { code: "not_found", message: `${kind} not found` };
    expect(() => get(unknown)).toThrow(expect.objectContaining(notFound));
    await expect(t.commit((ctx) => updateComponent(ctx, kind, unknown, { name: "x" }))).rejects.toMatchObject(notFound);
    await expect(t.commit((ctx) => deleteComponent(ctx, kind, unknown))).rejects.toMatchObject(notFound);
  });

  test("stands in the list by its age", async () => {
    const ids: string[] = [];
    for (const at of [start + 2, start, start + 1, start]) {
      t.clock.at = at;
      ids.push((await t.commit((ctx) => addComponent(ctx, kind))).id);
    }
    const [third, first, second, tie] = ids;
    expect(t.read((ctx) => listComponents(ctx, kind)).map(({ id }) => id)).toEqual([first, tie, second, third]);
    expect(t.read((ctx) => listComponents(ctx, other))).toEqual([]);
  });

  test("changes in what is given, and remembers what a user has set", async () => {
    const component = await t.commit((ctx) => addComponent(ctx, kind));
    t.clock.at += 1_000;
    await t.commit((ctx) => updateComponent(ctx, kind, component.id, { name: "Window", dataTypeId: undefined }));
    expect(get(component.id)).toEqual({
      ...component,
      name: "Window",
      editedFields: ["name"],
      updatedAt: start + 1_000,
    });
  });

  test("moves to another device, and not to one that is unknown", async () => {
    const component = await t.commit((ctx) => addComponent(ctx, kind));
    const target = await t.commit((ctx) => addDevice(ctx));
    const move = (deviceId: string) => t.commit((ctx) => updateComponent(ctx, kind, component.id, { deviceId }));
    await expect(move(unknown)).rejects.toMatchObject({ code: "invalid", message: "device not found" });
    expect(get(component.id).deviceId).toBe(component.deviceId);
    await move(target.id);
    expect(get(component.id)).toMatchObject({ deviceId: target.id, editedFields: [] });
  });

  test("is gone once deleted, and no other is", async () => {
    const [component, kept] = await t.commit((ctx) => [addComponent(ctx, kind), addComponent(ctx, kind)] as const);
    await t.commit((ctx) => deleteComponent(ctx, kind, component.id));
    expect(t.read((ctx) => listComponents(ctx, kind))).toEqual([kept]);
  });
});

test("a deleted sensor's readings are waiting for their removal, a deleted actor has none", async () => {
  const { id } = await t.commit((ctx) => addComponent(ctx, "sensor"));
  await t.commit((ctx) => createReading(ctx, { sensorId: id, value: 1 }));
  const removed = collect(t.bus, "sensors.removed");
  const actor = await t.commit((ctx) => addComponent(ctx, "actor"));
  await t.commit((ctx) => deleteComponent(ctx, "actor", actor.id));
  expect(removed).toEqual([]);
  await t.commit((ctx) => deleteComponent(ctx, "sensor", id));
  expect(removed).toEqual([{ count: 1 }]);
  expect(countRows(t, "purges")).toBe(1);
});

test("a sensor that moves takes its readings along", async () => {
  const { id } = await t.commit((ctx) => addComponent(ctx, "sensor"));
  await t.commit((ctx) => createReading(ctx, { sensorId: id, value: 21.5 }));
  const target = await t.commit((ctx) => addDevice(ctx));
  await t.commit((ctx) => updateComponent(ctx, "sensor", id, { deviceId: target.id }));
  expect(t.read((ctx) => runToEnd(listReadings(ctx, { sensorId: id, limit: 10, offset: 0 })))).toMatchObject([
    { value: 21.5 },
  ]);
});

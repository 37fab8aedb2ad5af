import { afterEach, beforeEach, expect, test } from "vitest";
import { pingBroker, requestCheck, triggerSensor, writeActor } from "../../src/core/commands.ts";
import { addComponent, openTestStore, type TestStore } from "../support/store.ts";

let t: TestStore;
beforeEach(() => (t = openTestStore()) && undefined);
afterEach(() => t.close());

const requested_at = "2026-01-14T10:00:00Z";
const unknown = "550e8400-e29b-41d4-a716-446655440000";

test("a trigger says which sensor, what and when", async () => {
  const { id } = await t.commit((ctx) => addComponent(ctx, "sensor"));
  expect(t.read((ctx) => triggerSensor(ctx, id, "read"))).toEqual({
    type: "sensor_trigger",
    sensor_id: id,
    action: "read",
    requested_at,
  });
});

test.each([0, false, null, "", "on", [1, { a: null }], { level: 3 }])(
  "a write carries the value %j as given",
  async (value) => {
    const { id } = await t.commit((ctx) => addComponent(ctx, "actor"));
    expect(t.read((ctx) => writeActor(ctx, id, { action: "set", value }))).toStrictEqual({
      type: "actor_command",
      actor_id: id,
      action: "set",
      value,
      requested_at,
    });
  },
);

test("a write without a value has none", async () => {
  const { id } = await t.commit((ctx) => addComponent(ctx, "actor"));
  expect(t.read((ctx) => writeActor(ctx, id, { action: "toggle" }))).toStrictEqual({
    type: "actor_command",
    actor_id: id,
    action: "toggle",
    requested_at,
  });
});

test("what is unknown, or of the other kind, is not found", async () => {
  const sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
  const actor = await t.commit((ctx) => addComponent(ctx, "actor"));
  for (const id of [unknown, actor.id])
    expect(() => t.read((ctx) => triggerSensor(ctx, id, "read"))).toThrow("sensor not found");
  for (const id of [unknown, sensor.id])
    expect(() => t.read((ctx) => writeActor(ctx, id, { action: "set" }))).toThrow("actor not found");
});

test("a check names its device, a ping its time", () => {
  expect(t.read((ctx) => requestCheck(ctx, unknown))).toEqual({
    type: "device_check_request",
    device_id: unknown,
    requested_at,
  });
  t.clock.at += 1;
  expect(t.read(pingBroker)).toEqual({ type: "ping", timestamp: "2026-01-14T10:00:00.001Z" });
});

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  createRule,
  deleteRule,
  evaluateReadings,
  evaluateTime,
  listAlerts,
  updateRule,
  type Alert,
  type AlertRule,
  type RuleInput,
} from "../../src/core/alerts.ts";
import { updateComponent } from "../../src/core/components.ts";
import { getDetail, listSummaries } from "../../src/core/device-list.ts";
import type { EventMap } from "../../src/core/events.ts";
import { recordReading } from "../../src/core/readings.ts";
import { createWebhook, listDeliveries } from "../../src/core/webhooks.ts";
import { addComponent, addDevice, collect, openTestStore, start, type TestStore } from "../support/store.ts";

// Alert rules by a clock that stands until it is set: when they fire, and when it is over.

const second = 1_000;
const minute = 60 * second;

let t: TestStore;
let sensor: { id: string; pk: number; devicePk: number; deviceId: string };
let startedAt: number;
let heard: EventMap["alert"][];

beforeEach(async () => {
  t = openTestStore();
  startedAt = t.clock.at;
  heard = collect(t.bus, "alert");
  sensor = await addSensor();
});
afterEach(() => t.close());

const addSensor = (ofDevice?: string) =>
  t.commit((ctx) => {
    const deviceId = ofDevice ?? addDevice(ctx).id;
    const { id, pk } = addComponent(ctx, "sensor", deviceId);
    return { id, pk, deviceId, devicePk: getDetail(ctx, deviceId).device.pk };
  });

const inputOf = (of: typeof sensor, input: Partial<RuleInput>): RuleInput => ({
  devicePk: of.devicePk,
  sensorPk: of.pk,
  condition: "gt",
  threshold: null,
  thresholdHigh: null,
  forMs: 0,
  clear: null,
  cooldownMs: 0,
  severity: "warning",
  isEnabled: true,
  ...input,
});

const addRule = (input: Partial<RuleInput>, of = sensor): Promise<AlertRule> =>
  t.commit((ctx) => createRule(ctx, inputOf(of, input), { maxRules: 100 }));

/** A reading comes, at the present or at a time of its own, and is looked at. */
async function send(value: number, { at, of = sensor }: { at?: number; of?: typeof sensor } = {}): Promise<void> {
  await t.commit((ctx) => recordReading(ctx, { sensorId: of.id, value, valueAt: at }, { isOwn: true }));
  await look();
}

/** What the gateway does each second. */
async function look(): Promise<void> {
  while ((await t.commit((ctx) => evaluateReadings(ctx, 100))) === 100);
  await t.commit((ctx) => evaluateTime(ctx, startedAt));
}

async function wait(ms: number): Promise<void> {
  t.clock.at += ms;
  await look();
}

/** Oldest first. */
const alerts = (): Alert[] => t.read((ctx) => listAlerts(ctx, { limit: 100, offset: 0 })).alerts.toReversed();
const isActive = (): boolean => alerts().some(({ resolvedAt }) => resolvedAt === null);

/** What is active after each of `values`, a second apart. */
async function watch(values: number[]): Promise<boolean[]> {
  const seen: boolean[] = [];
  for (const value of values) {
    t.clock.at += second;
    await send(value);
    seen.push(isActive());
  }
  return seen;
}

describe("a condition", () => {
  test.each([
    ["gt", { threshold: 30 }, [29, 30, 30.1, 31, 30, 31], [false, false, true, true, false, true]],
    ["gte", { threshold: 30 }, [29.9, 30, 31, 29.9], [false, true, true, false]],
    ["lt", { threshold: 5 }, [6, 5, 4.9, -40, 5], [false, false, true, true, false]],
    ["lte", { threshold: 5 }, [5.1, 5, 4, 5.1], [false, true, true, false]],
    [
      "outside",
      { threshold: 10, thresholdHigh: 20 },
      [15, 10, 20, 9.9, 15, 20.1, 10],
      [false, false, false, true, false, true, false],
    ],
    ["gt", { threshold: 0 }, [0, -1, 0.1, 0], [false, false, true, false]],
    ["lt", { threshold: -10 }, [-10, -11, -9], [false, true, false]],
  ] as const)("%s %j", async (condition, bounds, values, expected) => {
    await addRule({ condition, ...bounds });
    expect(await watch([...values])).toEqual(expected);
  });

  test("fires once an activation, with the value that fired it, and resolves once", async () => {
    const rule = await addRule({ condition: "gt", threshold: 30, severity: "info" });
    await watch([31, 32, 33, 20, 21, 40]);
    expect(alerts()).toMatchObject([
      { value: 31, triggeredAt: start + 1 * second, resolvedAt: start + 4 * second },
      { value: 40, triggeredAt: start + 6 * second, resolvedAt: null },
    ]);
    expect(heard.map(({ event }) => event)).toEqual(["alert.triggered", "alert.resolved", "alert.triggered"]);
    expect(heard[0]).toEqual({
      event: "alert.triggered",
      deviceId: sensor.deviceId,
      data: {
        alertId: alerts()[0]?.id,
        ruleId: rule.id,
        deviceId: sensor.deviceId,
        sensor: sensor.id,
        condition: "gt",
        threshold: 30,
        severity: "info",
        value: 31,
        triggeredAt: "2026-01-14T10:00:01Z",
      },
    });
  });

  test("is about its own sensor", async () => {
    const other = await addSensor(sensor.deviceId);
    await addRule({ condition: "gt", threshold: 30 });
    await send(40, { of: other });
    expect(alerts()).toEqual([]);
  });

  test("may be one of two on a sensor, each with a state of its own", async () => {
    const [high, higher] = [
      await addRule({ condition: "gt", threshold: 30 }),
      await addRule({ condition: "gt", threshold: 40, severity: "critical" }),
    ];
    await watch([35, 45, 35, 25]);
    expect(alerts()).toMatchObject([
      { ruleId: high.id, value: 35, triggeredAt: start + 1 * second, resolvedAt: start + 4 * second },
      { ruleId: higher.id, value: 45, triggeredAt: start + 2 * second, resolvedAt: start + 3 * second },
    ]);
  });

  test("is held against what comes after the rule, not against what was there", async () => {
    await t.commit((ctx) =>
      recordReading(ctx, { sensorId: sensor.id, value: 99, valueAt: start - 1 }, { isOwn: true }),
    );
    await addRule({ condition: "gt", threshold: 30 });
    await wait(minute);
    expect(alerts()).toEqual([]);
    await addRule({ condition: "gt", threshold: 50 });
    await send(99);
    expect(alerts()).toHaveLength(2);
  });

  test("is held against what had come and was not looked at yet by the rules of that time alone", async () => {
    const old = await addRule({ condition: "gt", threshold: 30 });
    await t.commit((ctx) => recordReading(ctx, { sensorId: sensor.id, value: 99 }, { isOwn: true }));
    await addRule({ condition: "gt", threshold: 30 });
    await look();
    expect(alerts()).toMatchObject([{ ruleId: old.id, value: 99 }]);
  });
});

describe("back-fill", () => {
  test("fires nothing, resolves nothing, and starts nothing", async () => {
    await addRule({ condition: "gt", threshold: 30, forMs: 10 * second });
    await send(20);
    await send(99, { at: start - minute });
    await wait(minute);
    expect(alerts()).toEqual([]);
    await send(99);
    await wait(10 * second);
    expect(isActive()).toBe(true);
    await send(20, { at: start + second });
    expect(isActive()).toBe(true);
    await send(20);
    expect(isActive()).toBe(false);
  });

  test("ends no silence", async () => {
    await addRule({ condition: "no_data", forMs: minute });
    await send(1);
    await wait(minute);
    expect(isActive()).toBe(true);
    await send(1, { at: start - minute });
    expect(isActive()).toBe(true);
    await send(1);
    expect(isActive()).toBe(false);
  });

  test("is no reading of the same millisecond: the one that came later is the newer one", async () => {
    await addRule({ condition: "gt", threshold: 30 });
    await send(31);
    await send(29);
    expect(alerts()).toMatchObject([{ value: 31, resolvedAt: start }]);
  });
});

describe("for", () => {
  test("is how long the condition must hold, by readings and by the clock between them", async () => {
    await addRule({ condition: "gt", threshold: 30, forMs: 10 * second });
    await send(31);
    await wait(9_999);
    expect(alerts()).toEqual([]);
    await wait(1);
    expect(alerts()).toMatchObject([{ value: 31, triggeredAt: start + 10 * second }]);
  });

  test("begins anew when the condition has not held in between", async () => {
    await addRule({ condition: "gt", threshold: 30, forMs: 10 * second });
    await send(31);
    await wait(9 * second);
    await send(30);
    await send(31);
    await wait(9 * second);
    expect(alerts()).toEqual([]);
    await wait(second);
    expect(alerts()).toHaveLength(1);
  });

  test("goes by the readings' own time where they come late and together", async () => {
    await addRule({ condition: "gt", threshold: 30, forMs: 10 * second });
    t.clock.at += minute;
    for (let at = start; at < start + 10 * second; at += 2 * second)
      await t.commit((ctx) => recordReading(ctx, { sensorId: sensor.id, value: 31, valueAt: at }, { isOwn: true }));
    await t.commit((ctx) =>
      recordReading(ctx, { sensorId: sensor.id, value: 20, valueAt: start + 10 * second }, { isOwn: true }),
    );
    await look();
    expect(alerts()).toEqual([]);
  });
});

describe("clear", () => {
  test.each([
    ["gt", { threshold: 30, clear: 28 }, [31, 29, 28.1, 28, 29, 31], [true, true, true, false, false, true]],
    ["gte", { threshold: 30, clear: 28 }, [30, 29, 28, 29], [true, true, false, false]],
    ["gte", { threshold: 30, clear: 30 }, [30, 30, 30, 29], [true, true, true, false]],
    ["lt", { threshold: 5, clear: 7 }, [4, 6, 6.9, 7, 6], [true, true, true, false, false]],
    ["lte", { threshold: 5, clear: 5 }, [5, 5, 5, 6], [true, true, true, false]],
    [
      "outside",
      { threshold: 10, thresholdHigh: 20, clear: 2 },
      [21, 19, 18, 9, 11, 12, 19],
      [true, true, false, true, true, false, false],
    ],
  ] as const)("%s %j", async (condition, bounds, values, expected) => {
    await addRule({ condition, ...bounds });
    expect(await watch([...values])).toEqual(expected);
    // What is active all along is one alert.
    const rises = expected.filter((isOn, i) => isOn && expected[i - 1] !== true);
    expect(alerts()).toHaveLength(rises.length);
  });
});

describe("cooldown", () => {
  test("is how long after it has fired a rule does not fire again", async () => {
    await addRule({ condition: "gt", threshold: 30, cooldownMs: minute });
    await watch([31, 20, 31, 20, 31]);
    expect(alerts()).toHaveLength(1);
    await wait(55 * second + 999);
    expect(alerts()).toHaveLength(1);
    // The condition still holds when it is over.
    await wait(1);
    expect(alerts()).toMatchObject([{ triggeredAt: start + second }, { value: 31, resolvedAt: null }]);
  });

  test("over, nothing fires where the condition does not hold", async () => {
    await addRule({ condition: "gt", threshold: 30, cooldownMs: minute });
    await watch([31, 20, 31, 20]);
    await wait(2 * minute);
    expect(alerts()).toHaveLength(1);
  });

  test("goes for silence too", async () => {
    await addRule({ condition: "no_data", forMs: 10 * second, cooldownMs: minute });
    await wait(10 * second);
    await send(1);
    await wait(30 * second);
    expect(alerts()).toHaveLength(1);
    await wait(30 * second);
    expect(alerts()).toHaveLength(2);
  });
});

describe("no_data", () => {
  test("fires when nothing has come for so long, once, and resolves with the next reading", async () => {
    await addRule({ condition: "no_data", forMs: minute });
    await wait(59 * second);
    await send(1);
    await wait(minute - 1);
    expect(alerts()).toEqual([]);
    await wait(1);
    await wait(minute);
    expect(alerts()).toMatchObject([{ value: null, triggeredAt: start + 119 * second, resolvedAt: null }]);
    await send(1);
    expect(alerts()).toMatchObject([{ resolvedAt: start + 179 * second }]);
  });

  test("counts from the rule where the sensor has never sent", async () => {
    t.clock.at += 10 * minute;
    await addRule({ condition: "no_data", forMs: minute });
    await wait(minute - 1);
    expect(alerts()).toEqual([]);
    await wait(1);
    expect(alerts()).toHaveLength(1);
  });

  test("counts from the gateway's start at the earliest: nobody is heard while it is off", async () => {
    await addRule({ condition: "no_data", forMs: minute });
    await send(1);
    t.clock.at += 10 * minute;
    await t.reopen();
    startedAt = t.clock.at;
    await look();
    await wait(minute - 1);
    expect(alerts()).toEqual([]);
    await wait(1);
    expect(alerts()).toHaveLength(1);
  });

  test("still counts when the clock has been set back", async () => {
    await addRule({ condition: "no_data", forMs: minute });
    t.clock.at += 1_000 * minute;
    await send(1);
    t.clock.at = start;
    startedAt = start;
    await wait(minute - 1);
    expect(isActive()).toBe(false);
    await wait(1);
    expect(isActive()).toBe(true);
  });
});

describe("a restart", () => {
  test("neither fires again nor forgets", async () => {
    await addRule({ condition: "gt", threshold: 30, clear: 25 });
    await send(31);
    await t.reopen();
    heard = collect(t.bus, "alert");
    await look();
    await wait(second);
    await send(32);
    await send(29);
    expect(heard).toEqual([]);
    t.clock.at += second;
    await send(25);
    expect(heard).toMatchObject([{ event: "alert.resolved" }]);
    expect(alerts()).toHaveLength(1);
  });

  test("keeps what is pending, and the cooldown", async () => {
    await addRule({ condition: "gt", threshold: 30, forMs: 10 * second });
    await addRule({ condition: "lt", threshold: 10, cooldownMs: minute });
    await send(5);
    t.clock.at += second;
    await send(31);
    t.clock.at += 5 * second;
    await t.reopen();
    await wait(4 * second);
    await wait(second);
    expect(alerts()).toMatchObject([{ condition: "lt" }, { condition: "gt", triggeredAt: start + 11 * second }]);
    await send(5);
    await wait(second);
    expect(alerts()).toHaveLength(2);
  });

  test("looks at what had come and was not looked at", async () => {
    await addRule({ condition: "gt", threshold: 30 });
    await t.commit((ctx) => recordReading(ctx, { sensorId: sensor.id, value: 31 }, { isOwn: true }));
    await t.reopen();
    await look();
    expect(alerts()).toMatchObject([{ value: 31 }]);
  });
});

describe("an active alert is resolved", () => {
  test.each<[string, (rule: AlertRule) => Promise<unknown>]>([
    [
      "when its rule is changed",
      (rule) => t.commit((ctx) => updateRule(ctx, rule.id, inputOf(sensor, { threshold: 50 }))),
    ],
    [
      "when its rule is disabled",
      (rule) => t.commit((ctx) => updateRule(ctx, rule.id, inputOf(sensor, { threshold: 30, isEnabled: false }))),
    ],
    ["when its rule is deleted", (rule) => t.commit((ctx) => deleteRule(ctx, rule.id))],
  ])("%s", async (_name, change) => {
    const rule = await addRule({ condition: "gt", threshold: 30 });
    await send(31);
    t.clock.at += second;
    await change(rule);
    expect(heard.map(({ event }) => event)).toEqual(["alert.triggered", "alert.resolved"]);
    expect(heard[1]?.data).toMatchObject({ ruleId: rule.id, resolvedAt: "2026-01-14T10:00:01Z" });
    expect(isActive()).toBe(false);
    await wait(second);
    expect(heard).toHaveLength(2);
  });

  test("and a rule that is disabled sees nothing of what comes until it is enabled again", async () => {
    const rule = await addRule({ condition: "gt", threshold: 30, isEnabled: false });
    await send(31);
    const input = inputOf(sensor, { threshold: 30 });
    await t.commit((ctx) => updateRule(ctx, rule.id, input));
    await wait(second);
    expect(alerts()).toEqual([]);
    await send(32);
    expect(alerts()).toMatchObject([{ value: 32 }]);
  });

  test("and forgotten with its rule, while the alerts of others stay", async () => {
    const rule = await addRule({ condition: "gt", threshold: 30 });
    const other = await addRule({ condition: "gt", threshold: 20 });
    await send(31);
    await t.commit((ctx) => deleteRule(ctx, rule.id));
    expect(alerts()).toMatchObject([{ ruleId: other.id, resolvedAt: null }]);
  });
});

describe("a critical alert", () => {
  const status = () => t.read((ctx) => getDetail(ctx, sensor.deviceId)).status;
  const listed = (word: "online" | "offline" | "error") =>
    t.read((ctx) => listSummaries(ctx, { status: word, limit: 10, offset: 0 })).devices.map(({ id }) => id);

  test("makes the device's status error until it is over, and then tells that it is online", async () => {
    const webhook = await t.commit((ctx) =>
      createWebhook(
        ctx,
        {
          url: "http://127.0.0.1:9/",
          events: ["device.online", "device.offline", "alert.triggered", "alert.resolved"],
        },
        { maxWebhooks: 1, maxPending: 10 },
      ),
    );
    const changes = collect(t.bus, "device.status");
    await addRule({ condition: "gt", threshold: 30, severity: "critical" });
    await send(20);
    expect(status()).toBe("online");
    await send(31);
    expect(status()).toBe("error");
    expect(listed("error")).toEqual([sensor.deviceId]);
    expect(listed("online")).toEqual([]);
    t.clock.at += second;
    await send(20);
    expect(status()).toBe("online");
    expect(listed("error")).toEqual([]);
    expect(changes.map(({ status: word }) => word)).toEqual(["error", "online"]);
    const told = t.read((ctx) => listDeliveries(ctx, webhook.id, { limit: 10, offset: 0 })).deliveries.toReversed();
    expect(told.map(({ event }) => event)).toEqual(["alert.triggered", "alert.resolved", "device.online"]);
  });

  test("goes with its sensor to another device, and is no fault of the former one any more", async () => {
    const to = await t.commit((ctx) => addDevice(ctx));
    await addRule({ condition: "gt", threshold: 30, severity: "critical" });
    await send(31);
    const changes = collect(t.bus, "device.status");
    await t.commit((ctx) => updateComponent(ctx, "sensor", sensor.id, { deviceId: to.id }));
    expect(listed("error")).toEqual([to.id]);
    expect(changes.map(({ deviceId, status: word }) => [deviceId, word])).toEqual(
      expect.arrayContaining([
        [sensor.deviceId, "online"],
        [to.id, "error"],
      ]),
    );
    t.clock.at += second;
    await send(20);
    expect(listed("error")).toEqual([]);
  });

  test("is not over while another one of the device is active", async () => {
    const other = await addSensor(sensor.deviceId);
    await addRule({ condition: "gt", threshold: 30, severity: "critical" });
    await addRule({ condition: "gt", threshold: 30, severity: "critical" }, other);
    const changes = collect(t.bus, "device.status");
    await send(31);
    await send(31, { of: other });
    t.clock.at += second;
    await send(20);
    expect(status()).toBe("error");
    await send(20, { of: other });
    expect(status()).toBe("online");
    expect(changes.map(({ status: word }) => word)).toEqual(["error", "online"]);
  });

  test.each(["info", "warning"] as const)("is none of severity %s", async (severity) => {
    await addRule({ condition: "gt", threshold: 30, severity });
    await send(31);
    expect(isActive()).toBe(true);
    expect(status()).toBe("online");
  });

  test("of a deleted rule leaves the device online", async () => {
    const rule = await addRule({ condition: "gt", threshold: 30, severity: "critical" });
    await send(31);
    await t.commit((ctx) => deleteRule(ctx, rule.id));
    expect(status()).toBe("online");
  });
});

test("alerts of a rule whose value swings for years are let go, the oldest first", async () => {
  const rule = await addRule({ condition: "gt", threshold: 30 });
  t.store.db.$client.exec(
    `INSERT INTO alerts (id, rule_pk, device_pk, value, triggered_at, resolved_at)
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1005)
     SELECT i, ${rule.pk}, ${sensor.devicePk}, i, i, i + 1 FROM n`,
  );
  await send(31);
  const { alerts: newest, total } = t.read((ctx) => listAlerts(ctx, { limit: 1_000, offset: 0 }));
  expect(total).toBe(1_000);
  expect([newest[0]?.value, newest[1]?.value, newest.at(-1)?.value]).toEqual([31, 1_005, 7]);
});

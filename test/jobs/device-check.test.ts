import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { Command } from "../../src/core/commands.ts";
import {
  deleteDevice,
  getDevice,
  noteMessage,
  recordCheckResponse,
  updateDevice,
  type Device,
} from "../../src/core/devices.ts";
import { startDeviceCheck } from "../../src/jobs/device-check.ts";
import type { Job } from "../../src/jobs/periodic.ts";
import { until } from "../support/client.ts";
import { addDevice, openTestStore, start, type TestStore } from "../support/store.ts";

const intervalMs = 60_000;
/** As the document numbers them. */
const [ok, pending, lost, disabled] = [1, 2, 3, 4];

let t: TestStore;
let job: Job;
let requests: Command[];
/** What a request meets: the network, and the device behind it. */
let deliver: (deviceId: string) => Promise<void>;

beforeEach(() => {
  // The check's own timer alone: its rounds come when a test says so.
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  t = openTestStore();
  requests = [];
  deliver = () => Promise.resolve();
  run();
});
afterEach(async () => {
  await job.stop();
  vi.useRealTimers();
  await t.close();
});

function run(): void {
  job = startDeviceCheck({
    domain: t.domain,
    log: t.log,
    intervalMs,
    async publish(command) {
      if (command.type === "device_check_request") await deliver(command.device_id);
      requests.push(command);
      return "lambdaiot";
    },
  });
}

/** One interval passes; the round is over when each of `asked` devices has been asked. */
async function nextRound(asked: number, passedMs = intervalMs): Promise<void> {
  const before = requests.length;
  t.clock.at += passedMs;
  vi.advanceTimersByTime(intervalMs);
  await until(() => requests.length >= before + asked);
  // What would be asked beyond that is asked before the next commit of the same round's turn.
  await t.commit(() => undefined);
  expect(requests).toHaveLength(before + asked);
}

const add = (statusId = ok) => t.commit((ctx) => addDevice(ctx, { statusId }));
const status = ({ id }: Device) => t.read((ctx) => getDevice(ctx, id)).statusId;
const answer = (deviceId: string, word: "ok" | "lost" | "pending" = "ok") =>
  t.commit((ctx) => recordCheckResponse(ctx, deviceId, word)).then(() => undefined);

describe("each interval", () => {
  test("every device that is not disabled is asked once", async () => {
    const [first, second] = [await add(), await add(lost)];
    await add(disabled);
    expect(requests).toEqual([]);
    await nextRound(2);
    expect(requests).toEqual([
      { type: "device_check_request", device_id: first.id, requested_at: "2026-01-14T10:01:00Z" },
      { type: "device_check_request", device_id: second.id, requested_at: "2026-01-14T10:01:00Z" },
    ]);
    await nextRound(2);
  });

  test("a device that has come meanwhile is asked, one that has gone is not", async () => {
    const first = await add();
    await nextRound(1);
    const second = await add();
    await t.commit((ctx) => deleteDevice(ctx, first.id));
    await nextRound(1);
    expect(requests.at(-1)).toMatchObject({ device_id: second.id });
  });

  test("nobody is asked any more once it has stopped", async () => {
    await add();
    await nextRound(1);
    await job.stop();
    vi.advanceTimersByTime(10 * intervalMs);
    await t.commit(() => undefined);
    expect(requests).toHaveLength(1);
  });

  test("a request that fails is logged, and the next round comes", async () => {
    await add();
    deliver = () => Promise.reject(new Error("broker is closed"));
    vi.advanceTimersByTime(intervalMs);
    await until(() => t.logged().includes('error="broker is closed"'));
    deliver = () => Promise.resolve();
    expect(requests).toEqual([]);
    await nextRound(1);
  });
});

describe("a device", () => {
  test("that is silent for three intervals is lost, not before", async () => {
    const device = await add();
    const events: unknown[] = [];
    t.bus.on("device.status", (event) => void events.push(event));
    for (let round = 0; round <= 2; round++) {
      await nextRound(1);
      expect(status(device)).toBe(ok);
    }
    await nextRound(1);
    expect(status(device)).toBe(lost);
    await nextRound(1);
    await nextRound(1);
    expect(status(device)).toBe(lost);
    expect(events).toHaveLength(1);
  });

  test("that is pending and silent is lost too", async () => {
    const device = await add(pending);
    for (let round = 0; round <= 3; round++) await nextRound(1);
    expect(status(device)).toBe(lost);
  });

  test("that answers is never lost", async () => {
    const device = await add();
    deliver = answer;
    for (let round = 0; round < 12; round++) await nextRound(1);
    expect(status(device)).toBe(ok);
  });

  test("that sends something now and then, and answers nothing, is never lost", async () => {
    const device = await add();
    for (let round = 0; round < 12; round++) {
      if (round % 3 === 0) await t.commit((ctx) => noteMessage(ctx, getDevice(ctx, device.id)));
      await nextRound(1);
      expect(status(device)).toBe(ok);
    }
  });

  test("that is lost is back with its first message, and may be lost again", async () => {
    const device = await add();
    for (let round = 0; round <= 3; round++) await nextRound(1);
    expect(status(device)).toBe(lost);
    await t.commit((ctx) => noteMessage(ctx, getDevice(ctx, device.id)));
    expect(status(device)).toBe(ok);
    for (let round = 0; round <= 2; round++) await nextRound(1);
    expect(status(device)).toBe(ok);
    await nextRound(1);
    expect(status(device)).toBe(lost);
  });

  test("that says lost or pending is taken at its word", async () => {
    const device = await add();
    deliver = (id) => answer(id, "pending");
    await nextRound(1);
    await nextRound(1);
    expect(status(device)).toBe(pending);
    deliver = (id) => answer(id, "lost");
    await nextRound(1);
    expect(status(device)).toBe(lost);
    deliver = answer;
    await nextRound(1);
    expect(status(device)).toBe(ok);
  });

  test("that is disabled is not asked and not lost, and counts anew once enabled", async () => {
    const device = await add();
    const other = await add();
    deliver = (id) => (id === other.id ? answer(id) : Promise.resolve());
    for (let round = 0; round <= 2; round++) await nextRound(2);
    await t.commit((ctx) => updateDevice(ctx, device.id, { statusId: disabled }));
    for (let round = 0; round <= 4; round++) await nextRound(1);
    expect(status(device)).toBe(disabled);
    await t.commit((ctx) => updateDevice(ctx, device.id, { statusId: ok }));
    for (let round = 0; round <= 2; round++) await nextRound(2);
    expect(status(device)).toBe(ok);
    await nextRound(2);
    expect(status(device)).toBe(lost);
    expect(status(other)).toBe(ok);
  });
});

describe("the wall clock", () => {
  const dayMs = 86_400_000;

  test.each([
    ["ahead by ten years", 3_650 * dayMs],
    ["back by a day", -dayMs],
    ["back to 1970", -start],
  ])("set %s makes nobody lost who answers", async (_, jumpMs) => {
    const device = await add();
    deliver = answer;
    await nextRound(1);
    await nextRound(1, jumpMs);
    expect(status(device)).toBe(ok);
    for (let round = 0; round <= 4; round++) await nextRound(1);
    expect(status(device)).toBe(ok);
  });

  test("set ahead makes nobody lost who has been silent for a moment", async () => {
    const device = await add();
    deliver = answer;
    await nextRound(1);
    deliver = () => Promise.resolve();
    await nextRound(1, dayMs);
    await nextRound(1);
    expect(status(device)).toBe(ok);
  });

  test("set back again and again hides nobody who is silent", async () => {
    const device = await add();
    for (let round = 0; round <= 3; round++) await nextRound(1, -dayMs);
    expect(status(device)).toBe(lost);
  });

  test("that has gone on while the gateway was off makes nobody lost at its start", async () => {
    const device = await add();
    deliver = answer;
    for (let round = 0; round <= 2; round++) await nextRound(1);
    await job.stop();
    await t.reopen();
    t.clock.at += 30 * dayMs;
    run();
    deliver = () => Promise.resolve();
    for (let round = 0; round <= 2; round++) await nextRound(1);
    expect(status(device)).toBe(ok);
    await nextRound(1);
    expect(status(device)).toBe(lost);
  });
});

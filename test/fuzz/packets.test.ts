import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readMemory, readStore, smallGateway, startGoodDevice, type GoodDevice } from "../hostile/good-device.ts";
import {
  connectFrame,
  disconnectFrame,
  idFrame,
  openWire,
  pingFrame,
  publishFrame,
  subscribeFrame,
  unsubscribeFrame,
} from "../mqtt/gate-wire.ts";
import { createApi, logIn } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { createRandom, seed } from "../support/random.ts";

// Mutated packets of every type for a while (LAMBDAIOT_FUZZ_SECONDS, 4 by default), from a seed that is printed and can be
// given again (LAMBDAIOT_TEST_SEED), while a good device publishes.

const seconds = Number(process.env["LAMBDAIOT_FUZZ_SECONDS"] ?? 4);

const { folder, remove } = makeFolder();
let gateway: BuiltGateway;
let good: GoodDevice;
let before: ReturnType<typeof readStore>;
beforeAll(async () => {
  gateway = await startBuiltGateway({
    folder,
    command: smallGateway,
    env: {
      LAMBDAIOT_MQTT_MAX_CONNECTIONS_PER_ADDRESS: "1000",
      // What may be kept for others is bounded, here narrowly: its memory must come back to where it was.
      LAMBDAIOT_MQTT_MAX_SESSIONS: "20",
      LAMBDAIOT_MQTT_MAX_QUEUED_MESSAGES: "50",
      LAMBDAIOT_MQTT_MAX_RETAINED_MESSAGES: "100",
    },
  });
  good = await startGoodDevice(gateway, await logIn(gateway.url));
  before = readStore(gateway.storePath);
});
afterAll(async () => {
  await gateway.stop("SIGKILL");
  remove();
});

const next = createRandom(seed);
/** A whole number below `limit`. */
const random = (limit: number): number => Math.floor(next() * limit);
const pick = <T>(items: readonly T[]): T => items[random(items.length)] as T;

const topics = ["lambdaiot", "a", "a/b/c", "__proto__", "constructor", "$SYS/x", "длина", "x".repeat(300), "/", "a//b"];
const filters = [...topics, "#", "+", "+/+", "a/#", "$SYS/#"];
const payloads = ["", "{}", '{"type":"sensor_reading","sensor_id":"__proto__","value":1}', "\0\xff".repeat(50), "[[[["];
const clientIds = ["", "fuzz", "__proto__", "constructor", "fuzz-1", "é"];
const qos = (): 0 | 1 | 2 => random(3) as 0 | 1 | 2;
const messageId = (): number => random(20);

const makers: (() => Buffer)[] = [
  () => publishFrame(pick(topics), pick(payloads), qos(), messageId()),
  () => publishFrame(pick(topics), pick(payloads), qos(), messageId()),
  () => subscribeFrame(messageId(), ...Array.from({ length: random(5) }, () => pick(filters))),
  () => unsubscribeFrame(messageId(), ...Array.from({ length: random(5) }, () => pick(filters))),
  () => idFrame(pick([0x40, 0x50, 0x62, 0x70]), messageId()),
  () => idFrame(0x62, messageId()),
  () => pingFrame,
  () => connect(),
  () => (random(10) === 0 ? disconnectFrame : pingFrame),
  () => Buffer.from(Array.from({ length: random(30) }, () => random(256))),
];

const connect = (): Buffer =>
  connectFrame({
    clientId: pick(clientIds),
    keepAlive: pick([0, 1, 60, 65_535]),
    isClean: random(3) > 0,
    level: pick([3, 4, 4, 4, 4, 4, 5, 0x84]),
    ...(random(4) === 0 && { will: { topic: pick(filters), payload: pick(payloads) } }),
  });

/** Changed in a few places, most often in the first bytes: there stand types, flags and lengths. */
function mutate(bytes: Buffer): Buffer {
  let mutated = Buffer.from(bytes);
  for (let times = random(4); times > 0; times--) {
    const at = random(random(2) === 0 ? Math.min(mutated.length, 6) + 1 : mutated.length + 1);
    switch (random(5)) {
      case 0:
        mutated[at] = (mutated[at] ?? 0) ^ (1 << random(8));
        break;
      case 1:
        mutated[at] = pick([0, 1, 0x7f, 0x80, 0xff]);
        break;
      case 2:
        mutated = Buffer.concat([mutated.subarray(0, at), Buffer.of(random(256)), mutated.subarray(at)]);
        break;
      case 3:
        mutated = Buffer.concat([mutated.subarray(0, at), mutated.subarray(at + 1 + random(4))]);
        break;
      default:
        mutated = mutated.subarray(0, at);
    }
  }
  return mutated;
}

let packets = 0;
let connections = 0;

/** One connection after the other: a CONNECT, most often a good one, and packets of which some are none. */
async function attack(until: number): Promise<void> {
  while (Date.now() < until) {
    const wire = await openWire(gateway.mqttUrl);
    connections += 1;
    const first = connect();
    wire.send(random(5) === 0 ? mutate(first) : first);
    for (let rounds = random(8); rounds > 0 && !wire.isClosed(); rounds--) {
      const frames = Array.from({ length: 1 + random(8) }, () => {
        const frame = pick(makers)();
        return random(4) === 0 ? mutate(frame) : frame;
      });
      packets += frames.length;
      wire.send(Buffer.concat(frames));
      await sleep(random(3));
    }
    if (random(2) === 0) wire.socket.end();
    await Promise.race([wire.closed, sleep(20)]);
    await wire.end();
  }
}

test(
  `mutated packets bring nothing down: seed ${seed}, ${seconds} seconds`,
  { timeout: (seconds + 60) * 1_000 },
  async () => {
    const run = (ms: number): Promise<unknown> => {
      const until = Date.now() + ms;
      return Promise.all(Array.from({ length: 20 }, () => attack(until)));
    };
    await run(1_000); // the compilers are warm, the caches filled
    const warm = readMemory(gateway) ?? 0;
    await run(seconds * 1_000);
    const after = readMemory(gateway) ?? 0;
    console.log(
      `seed ${seed}: ${packets} packets on ${connections} connections; memory ${warm.toFixed(0)} MB, then ${after.toFixed(0)} MB`,
    );
    expect(packets).toBeGreaterThan(1_000);
    expect(gateway.process.exitCode).toBe(null);
    expect(await createApi(gateway.url)("GET", "/health")).toMatchObject({ status: 200 });
    // What the collector has not come to yet.
    expect(after - warm).toBeLessThan(60);

    // 200 MB that are only announced, by ten who have not logged in, with 64 KB of it each.
    const flat = readMemory(gateway) ?? 0;
    const greedy = await Promise.all(Array.from({ length: 10 }, () => openWire(gateway.mqttUrl)));
    for (const wire of greedy) wire.send(Buffer.of(0x10, 0x80, 0x84, 0xaf, 0x5f), Buffer.alloc(65_536));
    await Promise.all(greedy.map((wire) => wire.closed));
    expect((readMemory(gateway) ?? 0) - flat).toBeLessThan(20);

    const acknowledged = await good.finish();
    const { values, ...rest } = readStore(gateway.storePath);
    const { values: _, ...restBefore } = before;
    expect(rest).toEqual(restBefore);
    expect(values).toEqual(acknowledged);
    expect(acknowledged.length).toBeGreaterThan(50);
    expect(await gateway.stop()).toBe(0);
    const log = gateway.log().split("\n");
    expect(log.filter((line) => / error |hook failed|\bat .*\.mjs/.test(line))).toEqual([]);
    // Sampled: each kind of fault once a minute.
    expect(log.length).toBeLessThan(200 + seconds);
  },
);

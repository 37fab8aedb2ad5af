import { readParties } from "./cost.ts";
import type { Heard } from "./listeners.ts";
import type { LoadOrder, LoadResult } from "./load.ts";
import { startMosquitto } from "./mosquitto.ts";
import { makeFolder, receive, startGateway, startLoad, startScript, wake, type Program } from "./processes.ts";
import { rate, ratio, type Figure } from "./report.ts";
import { logIn } from "./rest.ts";
import { makeStore } from "./store.ts";

// How many QoS 1 readings a second become durable: 10 connections, 100 messages in flight on each, 100 sensors.

const topic = "lambdaiot";

interface Usual extends AsyncDisposable {
  port: number;
  subscriber: Program;
}

/** mosquitto, and a subscriber that writes into SQLite. */
async function startUsual(folder: string): Promise<Usual | undefined> {
  const broker = await startMosquitto(folder);
  if (broker === undefined) return undefined;
  const { port } = broker;
  const subscriber = await startScript("subscriber.ts", [`mqtt://127.0.0.1:${port}`, topic, `${folder}/subscriber.db`]);
  return {
    port,
    subscriber,
    async [Symbol.asyncDispose]() {
      await subscriber[Symbol.asyncDispose]();
      await broker[Symbol.asyncDispose]();
    },
  };
}

/** A gateway whose devices log in with tokens, and that a webhook and a live client listen to. */
async function startWatched(folder: string) {
  await makeStore(folder, 100);
  const gateway = await startGateway(folder);
  const parties = await readParties(gateway, true);
  const listeners = await startScript("listeners.ts", [gateway.url, await logIn(gateway.url)]);
  return {
    ...gateway,
    parties,
    async hear(): Promise<Heard> {
      const answer = receive<Heard>(listeners.child);
      listeners.child.send("?");
      return await answer;
    },
    async [Symbol.asyncDispose]() {
      await listeners[Symbol.asyncDispose]();
      await gateway[Symbol.asyncDispose]();
    },
  };
}

export async function measureIngest({ rounds = 5, messages = 40_000 } = {}): Promise<Figure[]> {
  using timedFolder = makeFolder();
  using untimedFolder = makeFolder();
  using watchedFolder = makeFolder();
  // A store each: readings that come now are far ahead of those with the load's times, which would all be late ones.
  const sensorIds = await makeStore(timedFolder.path, 100);
  const otherIds = await makeStore(untimedFolder.path, 100);
  await using timed = await startGateway(timedFolder.path);
  await using untimed = await startGateway(untimedFolder.path);
  await using watched = await startWatched(watchedFolder.path);
  await using aedes = await startScript("bare-aedes.ts");
  await using mosquitto = await startUsual(timedFolder.path);
  await using load = await startLoad();

  const order = { topic, connections: 10, inFlight: 100, messages, sensorIds, isTimed: true };
  let firstValue = 0;
  const run = async (more: Pick<LoadOrder, "port"> & Partial<LoadOrder>): Promise<LoadResult> => {
    firstValue += messages;
    return await load.run({ ...order, firstValue: firstValue - messages, ...more });
  };
  const acknowledgedPerSecond = async (...parameters: Parameters<typeof run>): Promise<number> =>
    messages / (await run(...parameters)).seconds;
  let expected = 0;
  /** A PUBACK of mosquitto's says nothing about SQLite, so the clock runs until the last reading is there. */
  const storedPerSecond = async ({ port, subscriber }: Usual): Promise<number> => {
    expected += messages;
    const allStored = (async () => {
      while ((await receive<number>(subscriber.child)) < expected);
      return Date.now();
    })();
    const { startedAt } = await run({ port });
    return messages / (((await allStored) - startedAt) / 1_000);
  };

  const rates = {
    timed: [] as number[],
    untimed: [] as number[],
    watched: [] as number[],
    bare: [] as number[],
    usual: [] as number[],
  };
  /** In turn, and nobody else meanwhile. */
  const contenders: [into: number[], measure: () => Promise<number>][] = [
    [rates.timed, () => wake(timed, () => acknowledgedPerSecond({ port: timed.mqttPort }))],
    [
      rates.untimed,
      () => wake(untimed, () => acknowledgedPerSecond({ port: untimed.mqttPort, sensorIds: otherIds, isTimed: false })),
    ],
    [rates.bare, () => acknowledgedPerSecond({ port: aedes.hello })],
    [rates.watched, () => wake(watched, () => acknowledgedPerSecond({ port: watched.mqttPort, ...watched.parties }))],
    ...(mosquitto === undefined
      ? []
      : [[rates.usual, () => storedPerSecond(mosquitto)] as [number[], () => Promise<number>]]),
  ];
  for (const { child } of [timed, untimed, watched]) child.kill("SIGSTOP");
  // The first round is for the compilers to warm up.
  for (let round = 0; round <= rounds; round++) {
    for (const [into, measure] of contenders) {
      const found = await measure();
      if (round > 0) into.push(found);
    }
  }
  const heard = await wake(watched, () => watched.hear());
  if (heard.deliveries === 0 || heard.bytes === 0 || heard.isCutOff)
    throw new Error(`not everybody has listened: ${JSON.stringify(heard)}`);

  return [
    rate("ingest: readings with value_at", rates.timed, "/s"),
    rate("ingest: readings without value_at", rates.untimed, "/s"),
    rate("ingest: with identities, a webhook and a live client", rates.watched, "/s"),
    rate("ingest: bare Aedes, nothing stored", rates.bare, "/s"),
    ratio("ingest: with value_at ÷ bare Aedes", rates.timed, rates.bare, 0.5),
    ratio("ingest: without value_at ÷ bare Aedes", rates.untimed, rates.bare, 0.5),
    ratio("ingest: with everything ÷ bare Aedes", rates.watched, rates.bare, 0.8),
    ...(mosquitto === undefined
      ? [{ what: "ingest: mosquitto is not installed", measured: "skipped" }]
      : [
          rate("ingest: mosquitto + Node subscriber + SQLite", rates.usual, "/s"),
          ratio("ingest: with value_at ÷ mosquitto + subscriber", rates.timed, rates.usual, 2),
          ratio("ingest: with everything ÷ mosquitto + subscriber", rates.watched, rates.usual, 3),
        ]),
  ];
}

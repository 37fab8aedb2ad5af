import { startMosquitto } from "./mosquitto.ts";
import { makeFolder, receive, startGateway, startLoad, startScript, type Program } from "./processes.ts";
import { rate, ratio, type Figure } from "./report.ts";
import { makeStore } from "./store.ts";

// How many QoS 1 readings a second become durable: 10 connections, 100 messages in flight on each, 100 sensors.

const rounds = 5;
const messages = 40_000;
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

export async function measureIngest(): Promise<Figure[]> {
  using folder = makeFolder();
  const sensorIds = await makeStore(folder.path, 100);
  await using gateway = await startGateway(folder.path);
  await using aedes = await startScript("bare-aedes.ts");
  await using mosquitto = await startUsual(folder.path);
  await using load = await startLoad();

  const order = { topic, connections: 10, inFlight: 100, messages, sensorIds };
  let firstValue = 0;
  const acknowledgedPerSecond = async (port: number, isTimed: boolean): Promise<number> => {
    const { seconds } = await load.run({ ...order, port, isTimed, firstValue });
    firstValue += messages;
    return messages / seconds;
  };
  let expected = 0;
  /** A PUBACK of mosquitto's says nothing about SQLite, so the clock runs until the last reading is there. */
  const storedPerSecond = async ({ port, subscriber }: Usual): Promise<number> => {
    expected += messages;
    const allStored = (async () => {
      while ((await receive<number>(subscriber.child)) < expected);
      return Date.now();
    })();
    const { startedAt } = await load.run({ ...order, port, isTimed: true, firstValue });
    firstValue += messages;
    return messages / (((await allStored) - startedAt) / 1_000);
  };

  const timed: number[] = [];
  const untimed: number[] = [];
  const bare: number[] = [];
  const usual: number[] = [];
  // The first round is for the compilers to warm up.
  for (let round = 0; round <= rounds; round++) {
    const rates = [
      await acknowledgedPerSecond(gateway.mqttPort, true),
      await acknowledgedPerSecond(aedes.hello, true),
      await acknowledgedPerSecond(gateway.mqttPort, false),
      mosquitto && (await storedPerSecond(mosquitto)),
    ] as const;
    if (round === 0) continue;
    timed.push(rates[0]);
    bare.push(rates[1]);
    untimed.push(rates[2]);
    if (rates[3] !== undefined) usual.push(rates[3]);
  }

  return [
    rate("ingest: readings with value_at", timed, "/s"),
    rate("ingest: readings without value_at", untimed, "/s"),
    rate("ingest: bare Aedes, nothing stored", bare, "/s"),
    ratio("ingest: with value_at ÷ bare Aedes", timed, bare, 0.5),
    ratio("ingest: without value_at ÷ bare Aedes", untimed, bare, 0.5),
    ...(mosquitto === undefined
      ? [{ what: "ingest: mosquitto is not installed", measured: "skipped" }]
      : [
          rate("ingest: mosquitto + Node subscriber + SQLite", usual, "/s"),
          ratio("ingest: with value_at ÷ mosquitto + subscriber", timed, usual, 2),
        ]),
  ];
}

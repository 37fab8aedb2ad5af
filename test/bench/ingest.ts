import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import {
  endWith,
  findFreePort,
  makeFolder,
  receive,
  startGateway,
  startLoad,
  startScript,
  type Program,
} from "./processes.ts";
import { rate, ratio, type Figure } from "./report.ts";
import { makeStore } from "./store.ts";

// How many QoS 1 readings a second become durable: 10 connections, 100 messages in flight on each, 100 sensors.

const rounds = 5;
const messages = 40_000;
const topic = "lambdaiot";

interface Mosquitto extends AsyncDisposable {
  port: number;
  subscriber: Program;
}

/** Debian's mosquitto with its configuration's persistence, and a subscriber that writes into SQLite. */
async function startMosquitto(folder: string): Promise<Mosquitto | undefined> {
  const command = ["mosquitto", "/usr/sbin/mosquitto"].find((name) => spawnSync(name, ["-h"]).error === undefined);
  if (command === undefined) return undefined;
  const port = await findFreePort();
  const data = `${folder}/mosquitto/`;
  mkdirSync(data);
  const lines = [
    `listener ${port} 127.0.0.1`,
    "allow_anonymous true",
    "persistence true",
    `persistence_location ${data}`,
    // By default it drops what a subscriber is more than 1,000 messages behind with; nothing may be lost here either.
    "max_queued_messages 0",
    // Started as root it would change to a user who cannot write there.
    ...(process.getuid?.() === 0 ? ["user root"] : []),
  ];
  writeFileSync(`${folder}/mosquitto.conf`, `${lines.join("\n")}\n`);
  const broker = endWith(spawn(command, ["-c", `${folder}/mosquitto.conf`], { stdio: "ignore" }));
  await untilListening(port);
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

async function untilListening(port: number): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    const isListening = await new Promise<boolean>((resolve) => {
      const socket = connect({ port, host: "127.0.0.1" });
      socket.once("connect", () => {
        socket.destroy();
        resolve(true);
      });
      socket.once("error", () => resolve(false));
    });
    if (isListening) return;
    await sleep(50);
  }
  throw new Error("mosquitto does not listen");
}

export async function measureIngest(): Promise<Figure[]> {
  using folder = makeFolder();
  const sensorIds = await makeStore(folder.path, 100);
  await using gateway = await startGateway(folder.path);
  await using aedes = await startScript("bare-aedes.ts");
  await using mosquitto = await startMosquitto(folder.path);
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
  const storedPerSecond = async ({ port, subscriber }: Mosquitto): Promise<number> => {
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

import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { endWith, findFreePort, type Program } from "./processes.ts";

export interface Mosquitto extends Program {
  port: number;
}

/** Debian's mosquitto with its configuration's persistence; `undefined` where it is not installed. */
export async function startMosquitto(folder: string): Promise<Mosquitto | undefined> {
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
  return { port, ...broker };
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

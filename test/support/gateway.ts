import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startApp, type App } from "../../src/app.ts";
import { parseConfig } from "../../src/config.ts";
import { createLog } from "../../src/log.ts";

/** The built bundle; `npm test` builds it first. */
export const bundle = new URL("../../dist/lambdaiot.mjs", import.meta.url).pathname;

/** A new empty folder, and what removes it. */
export function makeFolder(): { folder: string; remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), "lambdaiot-test-"));
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Environment variables by which every gateway of the tests is set up: free ports, generous login attempts. */
export const testEnv = {
  LAMBDAIOT_SERVER_PORT: "0",
  LAMBDAIOT_MQTT_PORT: "0",
  LAMBDAIOT_TLS_MQTTS_PORT: "0",
  LAMBDAIOT_TLS_HTTPS_PORT: "0",
  LAMBDAIOT_AUTH_ATTEMPTS_BURST: "10000",
};

export interface Gateway {
  url: string;
  mqttUrl: string;
  storePath: string;
  /** What the gateway has logged until now. */
  log: () => string;
}

export interface LocalGateway extends Gateway {
  app: App;
  close(): Promise<void>;
}

export interface StartOptions {
  /** More configuration, by environment name: `{ LAMBDAIOT_MQTT_TOPIC: "home" }`. */
  env?: Record<string, string>;
  /** Where the store is kept: to start again on the same one. Absent, a folder of its own that goes with `close`. */
  folder?: string;
  now?: () => number;
}

/** A gateway inside the test's own process, from the sources: real store, real broker, real HTTP, free ports. */
export async function startLocalGateway({ env = {}, folder, now }: StartOptions = {}): Promise<LocalGateway> {
  const own = folder === undefined ? makeFolder() : undefined;
  const path = join(folder ?? (own as { folder: string }).folder, "lambdaiot.db");
  const config = parseConfig({ env: { ...testEnv, LAMBDAIOT_DATABASE_PATH: path, ...env } });
  let logged = "";
  const log = createLog({ level: "debug", write: (line) => void (logged += line) });
  const app = await startApp({ config, log, ...(now && { now }) });
  return {
    app,
    url: `http://127.0.0.1:${app.httpPort}`,
    mqttUrl: `mqtt://127.0.0.1:${app.mqttPort}`,
    storePath: path,
    log: () => logged,
    async close() {
      await app.close();
      own?.remove();
    },
  };
}

export interface BuiltGateway extends Gateway {
  process: ChildProcess;
  /** Where it speaks TLS; empty where it has no certificate. */
  httpsUrl: string;
  mqttsUrl: string;
  /** Sends `signal` (default SIGTERM) and resolves with the exit code, or the signal's name where it had none. */
  stop(signal?: NodeJS.Signals): Promise<number | string>;
}

export interface BuiltOptions extends Omit<StartOptions, "now"> {
  folder: string;
  /** What to run: by default this Node with the bundle. */
  command?: readonly string[];
  /** The working folder; by default `folder`. */
  cwd?: string;
}

/** The built file as a process of its own, once it says that it listens. */
export async function startBuiltGateway({
  env = {},
  folder,
  command = [process.execPath, bundle],
  cwd = folder,
}: BuiltOptions): Promise<BuiltGateway> {
  const [file = "", ...args] = command;
  const child = spawn(file, args, {
    cwd,
    env: { PATH: process.env["PATH"], ...testEnv, LAMBDAIOT_DATABASE_PATH: join(folder, "lambdaiot.db"), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  const listening = new Promise<RegExpExecArray>((resolve, reject) => {
    const take = (chunk: Buffer): void => {
      output += chunk.toString();
      const match = /listening: API (\S+), MQTT (\S+) and [\s\S]*?store: +(\S+)/.exec(output);
      if (match !== null) resolve(match);
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.once("error", reject);
    child.once("exit", (code, signal) => reject(new Error(`the gateway ended (${code ?? signal}):\n${output}`)));
  });
  const [, url = "", mqttUrl = "", storePath = ""] = await listening;
  const [, httpsUrl = "", mqttsUrl = ""] = /with TLS: +API (\S+), MQTT (\S+) and /.exec(output) ?? [];
  return {
    process: child,
    url: url.replace("localhost", "127.0.0.1"),
    mqttUrl: mqttUrl.replace("localhost", "127.0.0.1"),
    httpsUrl: httpsUrl.replace("localhost", "127.0.0.1"),
    mqttsUrl: mqttsUrl.replace("localhost", "127.0.0.1"),
    storePath,
    log: () => output,
    async stop(signal = "SIGTERM") {
      if (child.exitCode !== null || child.signalCode !== null) return child.exitCode ?? (child.signalCode as string);
      const exited = once(child, "exit");
      child.kill(signal);
      const [code, name] = (await exited) as [number | null, string | null];
      return code ?? (name as string);
    },
  };
}

import { fork, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { LoadOrder, LoadResult } from "./load.ts";

// The processes that a part of the benchmark starts. `using` ends them with the part.

const root = fileURLToPath(new URL("../..", import.meta.url));
export const bundle = `${root}dist/lambdaiot.mjs`;

/** A folder on the disk of the project: the system's own temporary folder may be in memory. */
export function makeFolder(): Disposable & { path: string } {
  mkdirSync(`${root}dist`, { recursive: true });
  const path = mkdtempSync(`${root}dist/bench-`);
  const remove = (): void => rmSync(path, { recursive: true, force: true });
  process.once("exit", remove);
  return {
    path,
    [Symbol.dispose]() {
      process.off("exit", remove);
      remove();
    },
  };
}

export interface Program extends AsyncDisposable {
  child: ChildProcess;
}

const running = new Set<ChildProcess>();

// Whatever ends this process, nothing it has started stays behind, standing still perhaps.
process.setMaxListeners(50);
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

export function endWith(child: ChildProcess): Program {
  running.add(child);
  child.once("exit", () => running.delete(child));
  return {
    child,
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, "exit");
      child.kill();
      child.kill("SIGCONT"); // one that stands still would not hear it
      await exited;
    },
  };
}

/** Has a program stand still but for the time of `work`: what it does in the background it does in its own time. */
export async function wake<T>({ child }: Program, work: () => Promise<T>): Promise<T> {
  child.kill("SIGCONT");
  const result = await work();
  child.kill("SIGSTOP");
  return result;
}

export interface Gateway extends Program {
  url: string;
  httpPort: number;
  mqttPort: number;
}

export interface GatewayOptions {
  execArgv?: string[];
  env?: Record<string, string>;
  file?: string;
  /** A program that runs it, and leaves it the process that was started. */
  by?: string[];
}

/** The built file, or another `file` like it, once it says that it listens. */
export async function startGateway(
  folder: string,
  { execArgv = [], env = {}, file = bundle, by = [] }: GatewayOptions = {},
): Promise<Gateway> {
  const [command, ...args] = [...by, process.execPath, ...execArgv, file];
  const child = spawn(command, args, {
    cwd: folder,
    env: {
      PATH: process.env["PATH"],
      LAMBDAIOT_SERVER_PORT: "0",
      LAMBDAIOT_MQTT_PORT: "0",
      LAMBDAIOT_DATABASE_PATH: `${folder}/lambdaiot.db`,
      // What is measured is a year of readings that end on a fixed day, however long ago that is.
      LAMBDAIOT_RETENTION_RAW_DAYS: "0",
      LAMBDAIOT_RETENTION_ROLLUP_DAYS: "0",
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  const [http = "", mqtt = ""] = await new Promise<string[]>((resolve, reject) => {
    const take = (chunk: Buffer): void => {
      output += chunk.toString();
      const ports = /listening: API http:\S+:(\d+), MQTT mqtt:\S+:(\d+) /.exec(output);
      if (ports !== null) resolve(ports.slice(1));
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.once("exit", (code) => {
      reject(new Error(`the gateway ended:\n${output}`));
      // Amid a measurement nobody hears of that; what it has said tells why.
      if (code !== 0 && code !== null) console.error(`the gateway ended with ${code}:\n${output}`);
    });
  });
  return { ...endWith(child), url: `http://127.0.0.1:${http}`, httpPort: Number(http), mqttPort: Number(mqtt) };
}

/** For programs that cannot say which port they were given. */
export async function findFreePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** The next message of a forked process. */
export async function receive<T>(child: ChildProcess): Promise<T> {
  return await new Promise<T>((resolve, reject) => {
    const onExit = (): void => reject(new Error(`${child.spawnargs.at(-1)} ended`));
    child.once("exit", onExit);
    child.once("message", (message) => {
      child.off("exit", onExit);
      resolve(message as T);
    });
  });
}

/** Another file of this folder as a process, and the number that it says first: its port where it listens. */
export async function startScript(
  name: string,
  args: string[] = [],
  { by = [] }: Pick<GatewayOptions, "by"> = {},
): Promise<Program & { hello: number }> {
  const [execPath, ...execArgv] = [...by, process.execPath];
  const child = fork(fileURLToPath(new URL(name, import.meta.url)), args, { execPath, execArgv });
  return { ...endWith(child), hello: await receive<number>(child) };
}

export interface Load extends AsyncDisposable {
  run(order: LoadOrder): Promise<LoadResult>;
}

export async function startLoad(): Promise<Load> {
  const program = await startScript("load.ts");
  return {
    async run(order) {
      const result = receive<LoadResult>(program.child);
      program.child.send(order);
      return await result;
    },
    [Symbol.asyncDispose]: () => program[Symbol.asyncDispose](),
  };
}

import { closeSync, openSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { parseArgs } from "node:util";
import { version } from "embedded:package";
import { mqttWebSocketPath, startApp, type App } from "./app.ts";
import { parseConfig, readConfigFile, renderSample, renderTable, type Config } from "./config.ts";
import { StartError } from "./core/errors.ts";
import { renderApiDocuments } from "./http/documents.ts";
import { createLog } from "./log.ts";
import { renderMetricsPage } from "./metrics.ts";
import { findPair, lastDayOf, readPair } from "./tls/files.ts";

const usage = `lambdaiot ${version}: an MQTT broker and a REST API in one process, one file, one SQLite store

  lambdaiot [--config FILE]               run the gateway
  lambdaiot check-config [--config FILE]  say what is wrong with the configuration, and end
  lambdaiot sample-config                 print a config.toml with every key, its default and its meaning
  lambdaiot cert init [--name NAME]... [--force]
                                          make a certificate for TLS, signed by an authority of the gateway's own, for
                                          all names and addresses of this machine and those given; run again, it renews
                                          the certificate; --force makes a new authority too
  lambdaiot --help | --version

Without --config, config.toml in the working folder is read where there is one. Every key can be set in the
environment too: LAMBDAIOT_SERVER_PORT=8080 is server.port. SIGHUP has the gateway read its certificate again.
`;

/** Ends the process where closing hangs: an init system waits no longer than this either. */
const shutdownDeadlineMs = 10_000;

export interface Io {
  env: Readonly<Record<string, string | undefined>>;
  out: (text: string) => void;
  err: (text: string) => void;
  /** Resolves with the signal that asks the gateway to stop; calls `reload` for one that asks for that. */
  untilStopped: (reload: () => void) => Promise<string>;
}

/** The command line. @returns the exit code: 0 done, 1 could not run, 2 a mistake in usage or configuration */
export async function run(args: readonly string[], io: Io): Promise<number> {
  try {
    const { values, positionals } = parseArguments(args);
    if (values.help) return print(io, usage);
    if (values.version) return print(io, `${version}\n`);
    const [first = "run", ...others] = positionals;
    // A command of two words.
    const [command, rest] = first === "cert" ? [`cert ${others[0] ?? ""}`.trim(), others.slice(1)] : [first, others];
    if (rest.length > 0) throw new StartError(`unexpected argument ${rest[0]}; see lambdaiot --help`, 2);
    for (const option of ["name", "force"] as const)
      if (values[option] !== undefined && command !== "cert init")
        throw new StartError(`--${option} is for cert init; see lambdaiot --help`, 2);
    switch (command) {
      case "run":
        return await serve(loadConfig(values.config, io), io);
      case "check-config":
        checkConfig(loadConfig(values.config, io));
        return print(io, "the configuration is good\n");
      case "cert init":
        return await initCertificates(loadConfig(values.config, io), values, io);
      case "sample-config":
        return print(io, renderSample());
      // For the repository's own documents.
      case "config-table":
        return print(io, `${renderTable()}\n`);
      case "metrics-page":
        return print(io, renderMetricsPage());
      case "api-documents":
        return print(io, `${JSON.stringify(renderApiDocuments(), undefined, 2)}\n`);
      default:
        throw new StartError(`unknown command ${command}; see lambdaiot --help`, 2);
    }
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    for (const line of error.message.split("\n")) io.err(`lambdaiot: ${line}\n`);
    return error.exitCode;
  }
}

function parseArguments(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        config: { type: "string", short: "c" },
        name: { type: "string", multiple: true },
        force: { type: "boolean" },
        help: { type: "boolean", short: "h" },
        version: { type: "boolean", short: "v" },
      },
    });
  } catch (error) {
    throw new StartError(`${(error as Error).message.split(".", 1)[0]}; see lambdaiot --help`, 2);
  }
}

function print(io: Io, text: string): number {
  io.out(text);
  return 0;
}

const loadConfig = (path: string | undefined, { env }: Io): Config => parseConfig({ file: readConfigFile(path), env });

const dataFolderOf = ({ database }: Config): string => dirname(resolve(database.path));

/** What the configuration names must be of use, too. @throws {StartError} */
function checkConfig(config: Config): void {
  const files = findPair(config.tls, dataFolderOf(config));
  if (files !== undefined) readPair(files);
}

async function initCertificates(
  config: Config,
  { name: names = [], force = false }: { name?: string[]; force?: boolean },
  io: Io,
): Promise<number> {
  // Loaded for this command alone: what makes certificates is large, and the gateway reads them without it.
  const { makeCertificates, renderMade } = await import("./tls/init.ts");
  const made = makeCertificates({ dataFolder: dataFolderOf(config), names, isForced: force, now: Date.now() });
  const { http, tls } = config;
  return print(
    io,
    renderMade(made, {
      httpPort: http.port,
      httpsPort: tls.https_port,
      mqttsPort: tls.mqtts_port,
      isUsed: tls.certificate === undefined,
    }),
  );
}

async function serve(config: Config, io: Io): Promise<number> {
  const log = createLog({ level: config.server.log_level, write: io.err });
  for (const notice of config.notices) log.warn(notice);
  let reload = (): void => undefined;
  const stopped = io.untilStopped(() => reload());
  const app = await startApp({ config, log });
  reload = app.reload;
  io.out(renderWelcome(app, config));

  const signal = await stopped;
  log.info("stopping", { signal });
  const deadline = setTimeout(() => {
    log.error("could not stop in time");
    process.exit(1);
  }, shutdownDeadlineMs);
  await app.close();
  clearTimeout(deadline);
  log.info("stopped", app.counters.snapshot());
  return 0;
}

function renderWelcome({ httpPort, mqttPort, storePath, tls }: App, { mqtt: { topic } }: Config): string {
  const secured =
    tls &&
    `with TLS:  API https://localhost:${tls.httpsPort}, MQTT mqtts://localhost:${tls.mqttsPort} and wss://localhost:${tls.httpsPort}${mqttWebSocketPath}
           SHA-256 ${tls.certificate.fingerprint256}, until ${lastDayOf(tls.certificate)}
`;
  return `lambdaiot ${version}
listening: API http://localhost:${httpPort}, MQTT mqtt://localhost:${mqttPort} and ws://localhost:${httpPort}${mqttWebSocketPath}
${secured ?? ""}store:     ${storePath}
docs:      http://localhost:${httpPort}/docs

First steps: point a device at this machine's port ${mqttPort}; it announces itself on ${topic}/discovery.
Then register a user, log in, and read: POST /register, POST /login, GET /sensor-readings (all of it in the docs).
`;
}

function untilStopped(reload: () => void): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => resolve(signal));
    // Comes from a terminal that closes, too; whoever started the gateway there expects it to end with that.
    const isInTerminal = process.stdout.isTTY;
    process.on("SIGHUP", () => (isInTerminal && !hasTerminal() ? resolve("SIGHUP") : reload()));
  });
}

function hasTerminal(): boolean {
  try {
    closeSync(openSync("/dev/tty", "r"));
    return true;
  } catch {
    return false;
  }
}

/**
 * A closed pipe behind stdout or stderr (`lambdaiot | head -1`), or a full disk behind the log, is no reason to stop
 * taking readings. There is nowhere to say so.
 */
function ignoreLostOutput(stream: NodeJS.WriteStream): void {
  stream.on("error", () => undefined);
}

const [major = 0] = process.versions.node.split(".").map(Number);
if (major < 24) {
  process.stderr.write(`lambdaiot: Node ${process.versions.node} is too old; it runs on 24 and newer\n`);
  process.exitCode = 1;
} else {
  process.umask(0o077); // the store and the secret are their owner's alone
  ignoreLostOutput(process.stdout);
  ignoreLostOutput(process.stderr);
  process.exitCode = 1; // until run says otherwise: an exception that nothing catches is no success
  void run(process.argv.slice(2), {
    env: process.env,
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    untilStopped,
  }).then((code) => (process.exitCode = code));
}

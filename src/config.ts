import { existsSync, readFileSync } from "node:fs";
import { hostname, networkInterfaces } from "node:os";
import { parse } from "smol-toml";
import * as v from "valibot";
import { maxHeaderBytes, rulePattern, sections, toMicros, type Key, type product } from "./config-keys.ts";
import { StartError } from "./core/errors.ts";
import { parseJson } from "./core/json.ts";
import type { Product } from "./core/products.ts";
import type { AclRule } from "./mqtt/acl.ts";
import { givenUp } from "./store/wal.ts";

// From a TOML file and the environment to what the gateway uses, with a line for each mistake, and from the schema of
// the keys (config-keys.ts) to the sample and the README's table.

type Sections = typeof sections;
type ValueOf<K> = K extends { default: undefined; schema: infer S extends v.GenericSchema }
  ? v.InferOutput<S> | undefined
  : K extends { schema: infer S extends v.GenericSchema }
    ? v.InferOutput<S>
    : never;
type Settings = { -readonly [S in keyof Sections]: { -readonly [K in keyof Sections[S]]: ValueOf<Sections[S][K]> } };

/** The configuration as the gateway uses it: checked, with defaults filled in and addresses taken apart. */
export interface Config extends Settings {
  http: { host: string | undefined; port: number };
  broker: { host: string | undefined; port: number; credentials: { username: string; password: string } | undefined };
  /** Where each listens for TLS, where there is a certificate. */
  https: { host: string | undefined; port: number };
  mqtts: { host: string | undefined; port: number };
  /** What devices that have a token may use besides the gateway's own topics. */
  aclRules: AclRule[];
  /** What is for sale, prices in millionths. */
  catalog: Product[];
  /** What its reader should know, though nothing is wrong. */
  notices: string[];
}

export interface ConfigSource {
  /** The text of a TOML file, and its name for messages. */
  file?: { name: string; text: string } | undefined;
  env: Readonly<Record<string, string | undefined>>;
}

const envPrefix = "LAMBDAIOT_";

export const envName = (section: string, name: string): string => `${envPrefix}${section}_${name}`.toUpperCase();

/** Reads `path`; without one, `config.toml` in the working folder where there is one. @throws {StartError} */
export function readConfigFile(path: string | undefined): ConfigSource["file"] {
  const name = path ?? "config.toml";
  if (path === undefined && !existsSync(name)) return undefined;
  try {
    return { name, text: readFileSync(name, "utf8") };
  } catch (error) {
    throw new StartError(
      `${name} cannot be read: ${(error as NodeJS.ErrnoException).code ?? (error as Error).message}`,
      2,
    );
  }
}

/** @throws {StartError} with one line for each mistake */
export function parseConfig({ file, env }: ConfigSource): Config {
  const mistakes: string[] = [];
  const given = file === undefined ? {} : parseToml(file, mistakes);
  const where = file?.name ?? "";
  for (const section of Object.keys(given)) {
    if (!Object.hasOwn(sections, section)) mistakes.push(`${where}: unknown section [${section}]`);
  }
  const known = new Set<string>();
  const settings: Record<string, Record<string, unknown>> = {};
  for (const [section, keys] of Object.entries(sections) as [string, Record<string, Key>][]) {
    const values = Object.hasOwn(given, section) ? given[section] : {};
    if (typeof values !== "object" || values === null || Array.isArray(values)) {
      mistakes.push(`${where}: ${section} must be a section, [${section}]`);
      continue;
    }
    for (const name of Object.keys(values)) {
      if (!Object.hasOwn(keys, name)) mistakes.push(`${where}: unknown key ${section}.${name}`);
    }
    settings[section] = Object.fromEntries(
      Object.entries(keys).map(([name, { schema, default: fallback }]) => {
        const variable = envName(section, name);
        known.add(variable);
        const fromEnv = env[variable];
        const value =
          fromEnv === undefined ? (values as Record<string, unknown>)[name] : parseEnvValue(fromEnv, schema);
        if (value === undefined) return [name, fallback];
        const result = v.safeParse(schema, value);
        if (result.success) return [name, result.output];
        const [issue] = result.issues;
        const path = v.getDotPath(issue);
        const place =
          (fromEnv === undefined ? `${where}: ${section}.${name}` : variable) + (path === null ? "" : `.${path}`);
        mistakes.push(`${place} ${issue.message}`);
        return [name, fallback];
      }),
    );
  }
  for (const name of Object.keys(env)) {
    if (name.startsWith(envPrefix) && !known.has(name)) mistakes.push(`unknown environment variable ${name}`);
  }
  if (mistakes.length > 0) throw new StartError(mistakes.join("\n"), 2);
  return resolve(settings as unknown as Settings, mistakes);
}

function parseToml({ name, text }: { name: string; text: string }, mistakes: string[]): Record<string, unknown> {
  try {
    return parse(text);
  } catch (error) {
    // Its message goes on with an excerpt of the file; the first line says what is wrong and where.
    const { message, line, column } = error as Error & { line?: number; column?: number };
    const place = line === undefined ? "" : ` at line ${line}, column ${column}`;
    mistakes.push(`${name}: ${message.split("\n", 1)[0]}${place}`);
    return {};
  }
}

/** The environment knows strings alone: numbers, booleans and lists (by commas, or as JSON) are told by what the key takes. */
function parseEnvValue(text: string, schema: v.GenericSchema): unknown {
  if (schema.type === "number") return /^-?\d+$/.test(text) ? Number(text) : text;
  if (schema.type === "boolean") return text === "true" || (text === "false" ? false : text);
  if (schema.type === "array" && text.trimStart().startsWith("[")) return parseJson(text) ?? text;
  if (schema.type === "array")
    return text
      .split(",")
      .map((item) => item.trim())
      .filter((item) => item !== "");
  return text;
}

function resolve(settings: Settings, mistakes: string[]): Config {
  const { server, database, mqtt, tls } = settings;
  const notices: string[] = [];
  const http = splitAddress(server.address);
  const broker = splitBroker(mqtt.broker, mistakes);
  const unused = (["host", "port", "user", "password", "name"] as const).filter((name) => database[name] !== undefined);
  if (unused.length > 0) notices.push(`database.${unused.join(", ")} ignored: the store is built in, at database.path`);
  const loss = givenUp[database.durability];
  if (loss !== undefined) notices.push(`database.durability is ${database.durability}: ${loss}`);
  if (http.port !== undefined && http.port > 65_535) mistakes.push("server.address must have a port from 0 to 65535");
  if ((mqtt.username === "") !== (mqtt.password === ""))
    mistakes.push("mqtt.username and mqtt.password go together: set both or neither");
  if ((tls.certificate === undefined) !== (tls.key === undefined))
    mistakes.push("tls.certificate and tls.key go together: set both or neither");
  if (mqtt.max_packet_bytes < mqtt.max_payload_bytes + maxHeaderBytes)
    mistakes.push(`mqtt.max_packet_bytes must be ${maxHeaderBytes} more than mqtt.max_payload_bytes, or larger`);
  // Resends are known by what is kept with the readings in memory, of which half may just have been sealed.
  if (database.max_recent_readings < 2 * mqtt.resend_window)
    mistakes.push("database.max_recent_readings must be twice mqtt.resend_window, or larger");
  if (mistakes.length > 0) throw new StartError(mistakes.join("\n"), 2);
  return {
    ...settings,
    http: { host: http.host, port: server.port ?? http.port ?? 8080 },
    broker: {
      host: mqtt.address === "" ? undefined : mqtt.address,
      port: mqtt.port ?? broker.port,
      credentials: mqtt.username === "" ? undefined : { username: mqtt.username, password: mqtt.password },
    },
    https: { host: tls.address === undefined ? http.host : tls.address || undefined, port: tls.https_port },
    mqtts: { host: (tls.address ?? mqtt.address) || undefined, port: tls.mqtts_port },
    aclRules: mqtt.rules.map(toRule),
    catalog: settings.products.catalog.map(toProduct),
    notices,
  };
}

function toRule(text: string): AclRule {
  const [, access, pattern = ""] = rulePattern.exec(text) ?? [];
  return { access: access as AclRule["access"], pattern };
}

const toProduct = ({ price: amount, access, description, ...rest }: v.InferOutput<typeof product>): Product => ({
  ...rest,
  ...(description !== undefined && { description }),
  priceMicros: toMicros(amount),
  isAggregatedOnly: access === "aggregated",
});

function splitAddress(address: string): { host: string | undefined; port: number | undefined } {
  const match = /^(?:\[([^\]]+)\]|([^:]*))(?::(\d+))?$/.exec(address);
  const host = match?.[1] ?? match?.[2] ?? "";
  return { host: host === "" ? undefined : host, port: match?.[3] === undefined ? undefined : Number(match[3]) };
}

function splitBroker(broker: string, mistakes: string[]): { port: number } {
  const url = URL.parse(/^[a-z]+:\/\//i.test(broker) ? broker : `tcp://${broker}`);
  if (url === null || !["tcp:", "mqtt:"].includes(url.protocol)) {
    mistakes.push(`mqtt.broker must be tcp://localhost:PORT, not ${JSON.stringify(broker)}`);
    return { port: 1883 };
  }
  const host = url.hostname.replaceAll(/[[\]]/g, "").toLowerCase();
  if (!isThisMachine(host)) {
    mistakes.push(
      `mqtt.broker names another machine, ${host}: the broker is built into lambdaiot, and devices connect to it directly`,
    );
  }
  return { port: url.port === "" ? 1883 : Number(url.port) };
}

function isThisMachine(host: string): boolean {
  if (["", "localhost", "0.0.0.0", "::", "::1", hostname().toLowerCase()].includes(host) || host.startsWith("127."))
    return true;
  return Object.values(networkInterfaces()).some((addresses) => addresses?.some(({ address }) => address === host));
}

/** A value as TOML writes it: JSON, but for the equals signs in tables. */
function toToml(value: unknown): string {
  if (Array.isArray(value)) {
    const items = value.map(toToml);
    return value.some((item) => typeof item === "object") ? `[\n  ${items.join(",\n  ")},\n]` : `[${items.join(", ")}]`;
  }
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{ ${Object.entries(value)
    .map(([name, part]) => `${name} = ${toToml(part)}`)
    .join(", ")} }`;
}

/** A config.toml with every key at its default, documented. What has no default is commented out. */
export function renderSample(): string {
  const blocks = Object.entries(sections).map(([section, keys]) => {
    const lines = Object.entries(keys as Record<string, Key>).map(([name, { doc, default: fallback }]) =>
      [`# ${doc}`, fallback === undefined ? `# ${name} =` : `${name} = ${toToml(fallback)}`].join("\n"),
    );
    return [`[${section}]`, ...lines].join("\n");
  });
  return `${blocks.join("\n\n")}\n`;
}

/** The same as a table for the README. */
export function renderTable(): string {
  const rows = Object.entries(sections).flatMap(([section, keys]) =>
    Object.entries(keys as Record<string, Key>).map(([name, { doc, default: fallback }]) => {
      const text = fallback === undefined ? "" : toToml(fallback);
      const shown = text === "" ? "" : text.includes("\n") ? "see `sample-config`" : `\`${text}\``;
      return `| \`${section}.${name}\` | ${shown} | \`${envName(section, name)}\` | ${doc} |`;
    }),
  );
  return ["| key | default | environment | meaning |", "| --- | --- | --- | --- |", ...rows].join("\n");
}

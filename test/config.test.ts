import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { parse } from "smol-toml";
import { afterAll, describe, expect, test } from "vitest";
import { sections } from "../src/config-keys.ts";
import { envName, parseConfig, readConfigFile, renderSample, renderTable } from "../src/config.ts";
import { StartError } from "../src/core/errors.ts";

const load = (text: string, env: Record<string, string> = {}) =>
  parseConfig({ file: { name: "config.toml", text }, env });

/** What stops the start, line by line. */
function findMistakes(text: string, env: Record<string, string> = {}): string[] {
  try {
    load(text, env);
  } catch (error) {
    if (!(error instanceof StartError) || error.exitCode !== 2) throw error;
    return error.message.split("\n");
  }
  return [];
}

const keys = Object.entries(sections).flatMap(([section, entries]) =>
  Object.entries(entries).map(([name, { default: fallback }]) => ({ section, name, fallback: fallback as unknown })),
);

describe("without a file and an environment", () => {
  test("every key has its default, as documented", () => {
    const config = parseConfig({ env: {} });
    for (const { section, name, fallback } of keys)
      expect((config as unknown as Record<string, Record<string, unknown>>)[section]?.[name]).toEqual(fallback);
    expect(config).toMatchObject({
      http: { host: undefined, port: 8080 },
      broker: { host: undefined, port: 1883, credentials: undefined },
      database: { path: "data/lambdaiot.db" },
      mqtt: { topic: "lambdaiot", device_check_interval: 60, anonymous: "lan" },
      auth: { registration: "lan", public_devices: "lan" },
      notices: [],
    });
  });

  test("an empty file is as none", () => {
    expect(load("")).toEqual(parseConfig({ env: {} }));
    expect(load("# nothing\n[server]\n[mqtt]\n")).toEqual(parseConfig({ env: {} }));
  });
});

describe("the sample", () => {
  test("parses to the defaults", () => {
    expect(load(renderSample())).toEqual(parseConfig({ env: {} }));
  });

  test("documents every key once, in its section", () => {
    const lines = renderSample().split("\n");
    let section = "";
    const shown: string[] = [];
    for (const [i, line] of lines.entries()) {
      section = /^\[(\w+)\]$/.exec(line)?.[1] ?? section;
      const name = /^(?:# )?(\w+) =/.exec(line)?.[1];
      if (name === undefined) continue;
      shown.push(`${section}.${name}`);
      expect(lines[i - 1]).toMatch(/^# \S.*/);
    }
    expect(shown).toEqual(keys.map(({ section, name }) => `${section}.${name}`));
  });

  test("works with every commented key given", () => {
    const filled = renderSample()
      .replace("# jwt_secret =", `jwt_secret = "${"s3cret-".repeat(6)}"`)
      .replaceAll("# port =", "port = 0")
      .replaceAll(/^# (host|user|password|name|certificate|key|address) =/gm, '$1 = "x"');
    expect(filled).not.toMatch(/^# \w+ =$/m);
    expect(findMistakes(filled)).toEqual([]);
  });

  test("the table has a row for every key, with its environment name", () => {
    const rows = renderTable().split("\n").slice(2);
    expect(rows.map((row) => row.split(" | ")[0])).toEqual(keys.map(({ section, name }) => `| \`${section}.${name}\``));
    for (const { section, name } of keys) expect(renderTable()).toContain(`\`${envName(section, name)}\``);
  });
});

test("the document's file is taken, its own port and secret aside", () => {
  const text = `
    [server]
    address = ":8080"
    port = 8080
    [database]
    host = "localhost"
    port = 3306
    user = "root"
    password = "password"
    name = "lambdaiot"
    [mqtt]
    broker = "tcp://localhost:1883"
    topic = "lambdaiot"
    client_id = "lambdaiot-core"
    username = ""
    password = ""
  `;
  const config = load(text);
  expect(config).toMatchObject({ http: { port: 8080 }, broker: { port: 1883, credentials: undefined } });
  expect(config.notices).toEqual([
    "database.host, port, user, password, name ignored: the store is built in, at database.path",
  ]);
  expect(findMistakes(text.replace('":8080"', '":8080"\njwt_secret = "your-secret-key"'))).toEqual([
    "config.toml: server.jwt_secret is a sample that everybody knows; leave it out and one is generated",
  ]);
});

describe("the environment", () => {
  test.each([
    ["server", "port", "LAMBDAIOT_SERVER_PORT"],
    ["database", "path", "LAMBDAIOT_DATABASE_PATH"],
    ["mqtt", "device_check_interval", "LAMBDAIOT_MQTT_DEVICE_CHECK_INTERVAL"],
    ["auth", "public_devices", "LAMBDAIOT_AUTH_PUBLIC_DEVICES"],
  ])("knows %s.%s as %s", (section, name, variable) => {
    expect(envName(section, name)).toBe(variable);
  });

  test("has one name for each key", () => {
    expect(new Set(keys.map(({ section, name }) => envName(section, name))).size).toBe(keys.length);
  });

  test.each(keys.filter(({ fallback }) => fallback !== undefined))(
    "takes the default of $name in [$section], and wins over the file",
    ({ section, name, fallback }) => {
      const written = Array.isArray(fallback) ? JSON.stringify(fallback) : String(fallback);
      const value = typeof fallback === "number" ? fallback : Array.isArray(fallback) ? "[]" : JSON.stringify(fallback);
      // Whatever the file says, right or wrong: what the environment says counts.
      for (const inFile of [value, "true"])
        expect(load(`[${section}]\n${name} = ${String(inFile)}`, { [envName(section, name)]: written })).toEqual(
          parseConfig({ env: {} }),
        );
    },
  );

  test("gives numbers, lists and texts", () => {
    const config = load("[server]\nport = 1\nlog_level = 'debug'", {
      LAMBDAIOT_SERVER_PORT: "0",
      LAMBDAIOT_SERVER_TRUSTED_PROXIES: "127.0.0.1, ::1,,10.0.0.2",
      LAMBDAIOT_MQTT_TOPIC: "42",
      PATH: "/bin",
    });
    expect(config.http.port).toBe(0);
    expect(config.server).toMatchObject({ log_level: "debug", trusted_proxies: ["127.0.0.1", "::1", "10.0.0.2"] });
    expect(config.mqtt.topic).toBe("42");
  });

  test.each([
    [{ LAMBDAIOT_SERVER_PORT: "http" }, "LAMBDAIOT_SERVER_PORT must be a whole number from 0 to 65535"],
    [{ LAMBDAIOT_SERVER_PORT: "70000" }, "LAMBDAIOT_SERVER_PORT must be a whole number from 0 to 65535"],
    [{ LAMBDAIOT_SERVER_PORT: "0x50" }, "LAMBDAIOT_SERVER_PORT must be a whole number from 0 to 65535"],
    [{ LAMBDAIOT_SERVER_PORT: " 80" }, "LAMBDAIOT_SERVER_PORT must be a whole number from 0 to 65535"],
    [{ LAMBDAIOT_SERVER_PORT: "8e1" }, "LAMBDAIOT_SERVER_PORT must be a whole number from 0 to 65535"],
    [{ LAMBDAIOT_DATABASE_MAX_SIZE: "15" }, "LAMBDAIOT_DATABASE_MAX_SIZE must be 0, or 16 or more"],
    [{ LAMBDAIOT_RETENTION_RAW_DAYS: "-1" }, "LAMBDAIOT_RETENTION_RAW_DAYS must be a whole number from 0 to 36500"],
    [{ LAMBDAIOT_SERVER_PORT: "" }, "LAMBDAIOT_SERVER_PORT must be a whole number from 0 to 65535"],
    [{ LAMBDAIOT_SERVER_TRUSTED_PROXIES: "proxy" }, "LAMBDAIOT_SERVER_TRUSTED_PROXIES.0 must be an IP address"],
    [{ LAMBDAIOT_SERVER_PROT: "80" }, "unknown environment variable LAMBDAIOT_SERVER_PROT"],
    [{ LAMBDAIOT_: "80" }, "unknown environment variable LAMBDAIOT_"],
  ])("%o is a mistake", (env, line) => {
    expect(findMistakes("", env)).toEqual([line]);
  });
});

describe("a mistake", () => {
  test.each([
    ["[server]\nport = 65536", "config.toml: server.port must be a whole number from 0 to 65535"],
    ["[server]\nport = -1", "config.toml: server.port must be a whole number from 0 to 65535"],
    ["[server]\nport = 80.5", "config.toml: server.port must be a whole number from 0 to 65535"],
    ["[server]\nport = '80'", "config.toml: server.port must be a whole number from 0 to 65535"],
    ["[server]\nport = nan", "config.toml: server.port must be a whole number from 0 to 65535"],
    ["[server]\naddress = 8080", "config.toml: server.address must be a string"],
    ["[server]\naddress = 'a:b:c'", "config.toml: server.address must be host:port, :port or host"],
    ["[server]\naddress = '::1:80'", "config.toml: server.address must be host:port, :port or host"],
    ["[server]\naddress = 'host:http'", "config.toml: server.address must be host:port, :port or host"],
    ["[server]\naddress = ':65536'", "server.address must have a port from 0 to 65535"],
    ["[server]\nlog_level = 'trace'", "config.toml: server.log_level must be one of debug, info, warn, error"],
    ["[server]\ntrusted_proxies = ['10.0.0.0/8']", "config.toml: server.trusted_proxies.0 must be an IP address"],
    [
      "[server]\njwt_secret = 'short'",
      "config.toml: server.jwt_secret must be 32 bytes or longer; leave it out and one is generated",
    ],
    [
      "[server]\njwt_secret = 'ChangeMe'",
      "config.toml: server.jwt_secret is a sample that everybody knows; leave it out and one is generated",
    ],
    ["[database]\npath = ''", "config.toml: database.path must not be empty"],
    [
      "[mqtt]\ntopic = ''",
      "config.toml: mqtt.topic must be a topic name: not empty, without # + and NUL, not beginning with $",
    ],
    [
      "[mqtt]\ntopic = 'home/#'",
      "config.toml: mqtt.topic must be a topic name: not empty, without # + and NUL, not beginning with $",
    ],
    [
      "[mqtt]\ntopic = '$SYS'",
      "config.toml: mqtt.topic must be a topic name: not empty, without # + and NUL, not beginning with $",
    ],
    ["[mqtt]\ntopic = 'home/'", "config.toml: mqtt.topic must not end with /"],
    [
      "[mqtt]\ndevice_check_interval = 0",
      "config.toml: mqtt.device_check_interval must be a whole number from 1 to 86400",
    ],
    ["[mqtt]\nusername = 'device'", "mqtt.username and mqtt.password go together: set both or neither"],
    [
      "[database]\nmax_recent_readings = 1000",
      "database.max_recent_readings must be twice mqtt.resend_window, or larger",
    ],
    ["[tls]\ncertificate = 'a.pem'", "tls.certificate and tls.key go together: set both or neither"],
    ["[tls]\nkey = 'a.pem'", "tls.certificate and tls.key go together: set both or neither"],
    ["[tls]\nkey = ''", "config.toml: tls.key must not be empty"],
    ["[tls]\nhttps_port = 70000", "config.toml: tls.https_port must be a whole number from 0 to 65535"],
    ["[mqtt]\npassword = 'secret'", "mqtt.username and mqtt.password go together: set both or neither"],
    [
      "[mqtt]\nbroker = 'tcp://broker.example:1883'",
      "mqtt.broker names another machine, broker.example: the broker is built into lambdaiot, and devices connect to it directly",
    ],
    ["[mqtt]\nbroker = 'ssl://localhost:8883'", 'mqtt.broker must be tcp://localhost:PORT, not "ssl://localhost:8883"'],
    [
      "[mqtt]\nbroker = 'tcp://localhost:70000'",
      'mqtt.broker must be tcp://localhost:PORT, not "tcp://localhost:70000"',
    ],
    ["[auth]\nregistration = true", "config.toml: auth.registration must be one of open, lan, first, off"],
    ["[auth]\npublic_devices = 'first'", "config.toml: auth.public_devices must be one of open, lan, off"],
    ["[http]\nport = 80", "config.toml: unknown section [http]"],
    ["[server]\nports = 80", "config.toml: unknown key server.ports"],
    ["[server]\n__proto__ = 80", "config.toml: unknown key server.__proto__"],
    ["[server.tls]\ncert = 'a'", "config.toml: unknown key server.tls"],
    ["server = 80", "config.toml: server must be a section, [server]"],
    ["[[server]]\nport = 80", "config.toml: server must be a section, [server]"],
  ])("%j is told in one line", (text, line) => {
    expect(findMistakes(text)).toEqual([line]);
  });

  test("does not hide another: each has its line", () => {
    const text = "[server]\nport = 'a'\nprot = 1\n[mqtt]\ntopic = '#'\n[web]\n";
    expect(findMistakes(text, { LAMBDAIOT_AUTH_REGISTRATION: "all", LAMBDAIOT_X: "1" }).toSorted()).toEqual([
      "LAMBDAIOT_AUTH_REGISTRATION must be one of open, lan, first, off",
      "config.toml: mqtt.topic must be a topic name: not empty, without # + and NUL, not beginning with $",
      "config.toml: server.port must be a whole number from 0 to 65535",
      "config.toml: unknown key server.prot",
      "config.toml: unknown section [web]",
      "unknown environment variable LAMBDAIOT_X",
    ]);
  });

  test("of TOML itself is told with its place", () => {
    expect(findMistakes("[server]\nport = \n")).toEqual([
      expect.stringMatching(/^config\.toml: .+ at line 2, column \d+$/),
    ]);
    expect(findMistakes("[server]\nport = 1\nport = 2\n")).toEqual([
      expect.stringMatching(/^config\.toml: .+ at line 3, column \d+$/),
    ]);
  });

  test("never shows a secret", () => {
    const lines = findMistakes("[server]\njwt_secret = 'hunter2'\n[mqtt]\npassword = 'hunter2'");
    expect(lines).toHaveLength(1);
    expect(lines.join()).not.toContain("hunter2");
  });

  test("is found in any text without a fault of the finder", () => {
    const line = fc.oneof(
      fc.constantFrom(
        "[server]",
        "[mqtt]",
        "[[server]]",
        "port = 1",
        "port = ''",
        "topic = '#'",
        "a.b.c = 1",
        "{",
        "''",
      ),
      fc.string(),
    );
    fc.assert(
      fc.property(fc.array(line, { maxLength: 6 }), (lines) => {
        for (const mistake of findMistakes(lines.join("\n"))) expect(mistake).not.toBe("");
      }),
    );
  });
});

describe("where it listens", () => {
  test.each([
    ["", undefined, 8080],
    ["address = ':9000'", undefined, 9000],
    ["address = '127.0.0.1:9000'", "127.0.0.1", 9000],
    ["address = 'localhost'", "localhost", 8080],
    ["address = '[::1]:9000'", "::1", 9000],
    ["address = '[::1]'", "::1", 8080],
    ["address = ':0'", undefined, 0],
    ["port = 7000", undefined, 7000],
    ["address = '127.0.0.1:9000'\nport = 7000", "127.0.0.1", 7000],
    ["address = ':9000'\nport = 0", undefined, 0],
  ])("the API, with %j: %s %i", (text, host, port) => {
    expect(load(`[server]\n${text}`).http).toEqual({ host, port });
  });

  test.each([
    ["", undefined, 1883],
    ["broker = 'tcp://localhost:1884'", undefined, 1884],
    ["broker = 'tcp://LocalHost:1884'", undefined, 1884],
    ["broker = 'mqtt://127.0.0.1:1884'", undefined, 1884],
    ["broker = 'tcp://[::1]:1884'", undefined, 1884],
    ["broker = 'tcp://0.0.0.0:1884'", undefined, 1884],
    ["broker = 'localhost:1884'", undefined, 1884],
    ["broker = 'tcp://localhost'", undefined, 1883],
    [`broker = 'tcp://${hostname()}:1884'`, undefined, 1884],
    ["broker = 'tcp://localhost:1884'\nport = 0", undefined, 0],
    ["port = 1885", undefined, 1885],
    ["address = '127.0.0.1'", "127.0.0.1", 1883],
  ])("the broker, with %j: %s %i", (text, host, port) => {
    expect(load(`[mqtt]\n${text}`).broker).toEqual({ host, port, credentials: undefined });
  });

  test.each([
    ["", undefined, undefined],
    ["[server]\naddress = '127.0.0.1:80'\n[mqtt]\naddress = '::1'", "127.0.0.1", "::1"],
    ["[server]\naddress = '127.0.0.1:80'\n[mqtt]\naddress = '::1'\n[tls]\naddress = ''", undefined, undefined],
    ["[tls]\naddress = '192.0.2.2'", "192.0.2.2", "192.0.2.2"],
  ])("TLS, with %j: %s, %s", (text, https, mqtts) => {
    expect(load(text)).toMatchObject({ https: { host: https, port: 8443 }, mqtts: { host: mqtts, port: 8883 } });
  });

  test("and what it asks of devices", () => {
    expect(load("[mqtt]\nusername = 'device'\npassword = 'secret'").broker.credentials).toEqual({
      username: "device",
      password: "secret",
    });
  });
});

describe("readConfigFile", () => {
  const folder = mkdtempSync(join(tmpdir(), "lambdaiot-test-"));
  afterAll(() => rmSync(folder, { recursive: true }));

  test("gives the text of the file, and its name for messages", () => {
    const name = join(folder, "my.toml");
    writeFileSync(name, "[server]\nport = 1\n");
    expect(readConfigFile(name)).toEqual({ name, text: "[server]\nport = 1\n" });
    expect(parse(readConfigFile(name)?.text ?? "")).toEqual({ server: { port: 1 } });
  });

  test("a file that was asked for must be there and be a file", () => {
    const missing = join(folder, "missing.toml");
    expect(() => readConfigFile(missing)).toThrow(
      expect.objectContaining({ message: `${missing} cannot be read: ENOENT`, exitCode: 2 }),
    );
    expect(() => readConfigFile(folder)).toThrow(
      expect.objectContaining({ message: `${folder} cannot be read: EISDIR`, exitCode: 2 }),
    );
  });
});

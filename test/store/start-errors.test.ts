import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import Sqlite from "better-sqlite3";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { encodeArrivals } from "../../src/store/columns.ts";
import { createApi } from "../support/client.ts";
import { bundle, makeFolder, startBuiltGateway, testEnv } from "../support/gateway.ts";

// What a person sees who starts the built file where it cannot run: one line on stderr, an exit code, nothing broken.

let folder = "";
let path = "";
let remove = (): void => undefined;
beforeEach(() => {
  ({ folder, remove } = makeFolder());
  path = join(folder, "lambdaiot.db");
});
afterEach(() => remove());

interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}

interface RunOptions {
  args?: string[];
  env?: Record<string, string>;
  as?: readonly string[];
  /** Without the environment by which tests set a gateway up. */
  isBare?: boolean;
}

/** Runs the built file until it ends. */
function run({ args = [], env = {}, as = [], isBare = false }: RunOptions = {}): Ended {
  const [file = "", ...rest] = [...as, process.execPath, bundle, ...args];
  const { status, stdout, stderr } = spawnSync(file, rest, {
    cwd: folder,
    env: {
      PATH: process.env["PATH"],
      ...(!isBare && { ...testEnv, LAMBDAIOT_DATABASE_PATH: path }),
      ...env,
    },
    encoding: "utf8",
    timeout: 20_000,
    killSignal: "SIGKILL", // what runs on against all expectation ends here, and the test says so
  });
  return { status, stdout, stderr };
}

/** One line that says why, and nothing else. */
const refusal = (status: number, ...says: (string | RegExp)[]) => ({
  status,
  stdout: "",
  stderr: expect.stringMatching(
    new RegExp(`^lambdaiot: (?=[^\\n]*\\n$)${says.map((part) => `(?=.*(?:${source(part)}))`).join("")}`),
  ) as string,
});
const source = (part: string | RegExp): string =>
  typeof part === "string" ? part.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&") : part.source;

/** Makes a store as the gateway leaves it after a clean end. */
async function makeStore(): Promise<void> {
  const gateway = await startBuiltGateway({ folder });
  expect(await gateway.stop()).toBe(0);
}

const hashOf = (file: string): string => createHash("sha256").update(readFileSync(file)).digest("hex");

describe("a store that cannot be used", () => {
  test("that another gateway has open is refused, and the other one goes on", async () => {
    const gateway = await startBuiltGateway({ folder });
    try {
      expect(run()).toEqual(refusal(1, path, "in use by another lambdaiot"));
      expect(await createApi(gateway.url)("GET", "/health")).toMatchObject({ status: 200 });
    } finally {
      expect(await gateway.stop()).toBe(0);
    }
    const next = await startBuiltGateway({ folder });
    expect(await next.stop()).toBe(0);
  });

  test("that another gateway had open when it was killed is taken over", async () => {
    const gateway = await startBuiltGateway({ folder });
    await gateway.stop("SIGKILL");
    const next = await startBuiltGateway({ folder });
    expect(await next.stop()).toBe(0);
  });

  test.each([
    ["a text file", "This is a letter, and no database at all.\n".repeat(100)],
    ["a short text file", "hello\n"],
  ])("that is %s is refused untouched", (_, text) => {
    writeFileSync(path, text);
    expect(run()).toEqual(refusal(1, path, "is not a SQLite database"));
    expect(readFileSync(path, "utf8")).toBe(text);
  });

  test("that is a folder is refused", () => {
    mkdirSync(path);
    expect(run()).toEqual(refusal(1, path, "cannot be"));
  });

  test.each([
    ["with a mark of its own", "PRAGMA application_id = 1196444487"],
    ["without a mark", "SELECT 1"],
  ])("that is another program's SQLite file %s is refused untouched", (_, pragma) => {
    const other = new Sqlite(path);
    other.exec(`${pragma}; CREATE TABLE notes (text); INSERT INTO notes VALUES ('keep me')`);
    other.close();
    const before = hashOf(path);
    expect(run()).toEqual(refusal(1, path, "SQLite file of another program"));
    expect(hashOf(path)).toBe(before);
  });

  test("that a newer version wrote is refused untouched", async () => {
    await makeStore();
    const sqlite = new Sqlite(path);
    sqlite.pragma("user_version = 9999");
    sqlite.close();
    const before = hashOf(path);
    expect(run()).toEqual(refusal(1, path, "newer version", "9999", "untouched"));
    expect(hashOf(path)).toBe(before);
    expect(readdirSync(folder).filter((name) => name.endsWith(".bak"))).toEqual([]);
  });

  test("that a newer version wrote and was killed over keeps its write-ahead log too", async () => {
    await makeStore();
    // A writer that ends without closing leaves its log behind.
    const script = `const s = new (require("better-sqlite3"))(process.argv[1]); s.pragma("journal_mode = WAL"); s.pragma("user_version = 9999"); process.kill(process.pid, "SIGKILL")`;
    spawnSync(process.execPath, ["-e", script, path], { cwd: join(import.meta.dirname, "../..") });
    const wal = `${path}-wal`;
    const before = [hashOf(path), hashOf(wal)];
    expect(readFileSync(wal).length).toBeGreaterThan(0);
    expect(run()).toEqual(refusal(1, path, "newer version", "9999", "untouched"));
    expect(existsSync(wal) && [hashOf(path), hashOf(wal)]).toEqual(before);
  });

  test.each([
    ["whose first pages are overwritten", (file: string) => overwrite(file, 40, 20_000)],
    ["whose table of contents is overwritten", (file: string) => overwrite(file, 100, 3_000)],
    ["that is cut off", (file: string) => truncateSync(file, 6_000)],
  ])("%s is refused as damaged", async (_, damage) => {
    await makeStore();
    damage(path);
    expect(run()).toEqual(refusal(1, path, /is damaged|cannot be used/));
  });

  test.each([
    ["cut off", "substr(data, 1, length(data) - 1)"],
    ["overwritten", "zeroblob(length(data))"],
    ["of more readings than it can hold", "x'01feffffffffff7f0000'"],
  ])("whose newest readings are %s is refused as damaged", async (_, data) => {
    await makeStore();
    const sqlite = new Sqlite(path);
    const arrivals = encodeArrivals(2, (i) => ({ sensorPk: 1, valueAt: i, value: i / 3, fingerprint: 0 }));
    sqlite.prepare("INSERT INTO arrivals (first_id, count, data) VALUES (1, 2, ?)").run(arrivals);
    sqlite.exec(`UPDATE arrivals SET data = ${data}`);
    sqlite.close();
    expect(run()).toEqual(refusal(1, path, "is damaged"));
  });

  test("that does not exist yet is made, with its folder, for the owner alone", async () => {
    const deep = join(folder, "a/b/store.db");
    const gateway = await startBuiltGateway({ folder, env: { LAMBDAIOT_DATABASE_PATH: deep } });
    expect(await gateway.stop()).toBe(0);
    const modes = [deep, join(folder, "a/b"), join(folder, "a")].map((made) => statSync(made).mode & 0o777);
    expect(modes).toEqual([0o600, 0o700, 0o700]);
  });
});

function overwrite(file: string, at: number, bytes: number): void {
  const handle = openSync(file, "r+");
  writeSync(handle, Buffer.alloc(bytes, 0x5a), 0, bytes, at);
  closeSync(handle);
}

describe("a folder that cannot be written", () => {
  const isRoot = process.getuid?.() === 0;
  // Root may write anywhere: another user tries it then.
  const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
  const as = isRoot ? nobody : [];
  const canTry =
    !isRoot ||
    spawnSync("setpriv", [
      ...nobody.slice(1),
      process.execPath,
      "-e",
      `require("fs").readFileSync(${JSON.stringify(bundle)})`,
    ]).status === 0;
  const skipped = canTry ? "" : " (skipped: running as root, without setpriv or in a folder that others cannot read)";

  test.skipIf(!canTry)(`and has no store is refused${skipped}`, () => {
    chmodSync(folder, 0o555);
    expect(run({ as })).toEqual(refusal(1, path, /cannot be (?:written|opened)/));
  });

  test.skipIf(!canTry)(`and has a store is refused${skipped}`, async () => {
    await makeStore();
    for (const name of readdirSync(folder)) chmodSync(join(folder, name), 0o444);
    chmodSync(folder, 0o555);
    expect(run({ as })).toEqual(refusal(1, path, /cannot be (?:written|opened)/));
  });

  test.skipIf(!canTry)(`above the one that would hold the store is refused${skipped}`, () => {
    chmodSync(folder, 0o555);
    const env = { LAMBDAIOT_DATABASE_PATH: join(folder, "data/lambdaiot.db") };
    expect(run({ as, env })).toEqual(refusal(1, join(folder, "data/lambdaiot.db"), /cannot be (?:written|opened)/));
  });
});

describe("a port that is taken", () => {
  test.each([
    ["LAMBDAIOT_SERVER_PORT", "API"],
    ["LAMBDAIOT_MQTT_PORT", "MQTT broker"],
  ])("by another program is named: %s", async (variable, who) => {
    const other = createServer().listen(0);
    await once(other, "listening");
    const port = String((other.address() as AddressInfo).port);
    try {
      expect(run({ env: { [variable]: port } })).toEqual(refusal(1, who, `port ${port}`, "EADDRINUSE"));
    } finally {
      other.close();
    }
    // What had been started by then is closed again: the store is free.
    const gateway = await startBuiltGateway({ folder });
    expect(await gateway.stop()).toBe(0);
  });
});

describe("a mistake in the configuration", () => {
  const secret = "0123456789abcdef0123456789abcdef";
  test.each<[string, string, RegExp[]]>([
    ["an unknown key", "[server]\nprot = 8080", [/unknown key server\.prot/]],
    ["an unknown section", "[sever]\nport = 8080", [/unknown section \[sever\]/]],
    ["a section that is none", "server = 8080", [/server must be a section/]],
    ["text where a number belongs", '[server]\nport = "8080"', [/server\.port must be/]],
    ["a port beyond the last", "[mqtt]\nport = 70000", [/mqtt\.port must be/]],
    ["a port in the address beyond the last", '[server]\naddress = ":70000"', [/server\.address/]],
    ["a negative number", "[mqtt]\ndevice_check_interval = -1", [/mqtt\.device_check_interval must be/]],
    ["a fraction", "[mqtt]\nmax_devices = 1.5", [/mqtt\.max_devices must be/]],
    ["a short secret", '[server]\njwt_secret = "short"', [/server\.jwt_secret must be 32 bytes/]],
    ["the sample secret", '[server]\njwt_secret = "your-secret-key"', [/server\.jwt_secret is a sample/]],
    ["no TOML", "[server\nport = ", [/config\.toml/]],
    ["a broker elsewhere", '[mqtt]\nbroker = "tcp://broker.example:1883"', [/broker\.example.*built in/]],
    ["a topic with a wildcard", '[mqtt]\ntopic = "home/#"', [/mqtt\.topic must be/]],
    ["a username without a password", '[mqtt]\nusername = "u"', [/mqtt\.username and mqtt\.password/]],
    [
      "a key of every object",
      "[server]\n__proto__ = 1\nconstructor = 1",
      [/unknown key server\.__proto__/, /unknown key server\.constructor/],
    ],
    [
      "three mistakes",
      `[server]\nport = 70000\njwt_secret = "${secret}"\nx = 1\n[mqtt]\ntopic = ""`,
      [/server\.x/, /server\.port/, /mqtt\.topic/],
    ],
  ])("%s is told in one line for each, with exit code 2", (_, toml, says) => {
    writeFileSync(join(folder, "config.toml"), toml);
    for (const args of says.length > 1 ? [[], ["check-config"]] : [["check-config"]]) {
      // Nothing from the environment, which would win.
      const { status, stdout, stderr } = run({ args, isBare: true });
      const lines = stderr.split("\n").filter((line) => line !== "");
      expect({ status, stdout, lines: lines.length }).toEqual({ status: 2, stdout: "", lines: says.length });
      for (const part of says) expect(lines.filter((line) => part.test(line))).toHaveLength(1);
      expect(lines.every((line) => line.startsWith("lambdaiot: "))).toBe(true);
    }
    expect(readdirSync(folder)).toEqual(["config.toml"]);
  });

  test.each([
    ["an unknown variable", { LAMBDAIOT_SERVER_PROT: "1" }, "LAMBDAIOT_SERVER_PROT"],
    ["a word where a number belongs", { LAMBDAIOT_MQTT_PORT: "many" }, "LAMBDAIOT_MQTT_PORT"],
    ["a port beyond the last", { LAMBDAIOT_SERVER_PORT: "70000" }, "LAMBDAIOT_SERVER_PORT"],
  ])("%s in the environment is told, with exit code 2", (_, env, name) => {
    expect(run({ env })).toEqual(refusal(2, name));
  });

  test("a file that is not there or cannot be read is told, with exit code 2", () => {
    expect(run({ args: ["--config", "missing.toml"] })).toEqual(refusal(2, "missing.toml", "ENOENT"));
    expect(run({ args: ["--config", folder] })).toEqual(refusal(2, folder, "EISDIR"));
  });

  test.each([[["--wrong"]], [["fly"]], [["run", "twice"]], [["--config"]]])(
    "a command line that is none is told, with exit code 2: %j",
    (args) => {
      expect(run({ args })).toEqual(refusal(2, "lambdaiot --help"));
    },
  );
});

describe("what it says without starting", () => {
  test("--version and --help", () => {
    const { version } = JSON.parse(readFileSync(join(import.meta.dirname, "../../package.json"), "utf8")) as {
      version: string;
    };
    expect(run({ args: ["--version"] })).toEqual({ status: 0, stdout: `${version}\n`, stderr: "" });
    const help = run({ args: ["--help"] });
    expect(help).toMatchObject({ status: 0, stderr: "" });
    for (const word of ["check-config", "sample-config", "--config", "LAMBDAIOT_SERVER_PORT"])
      expect(help.stdout).toContain(word);
    expect(readdirSync(folder)).toEqual([]);
  });

  test("its sample configuration is one that it takes, with the defaults", async () => {
    const sample = run({ args: ["sample-config"] });
    expect(sample).toMatchObject({ status: 0, stderr: "" });
    writeFileSync(join(folder, "sample.toml"), sample.stdout);
    const args = ["check-config", "--config", "sample.toml"];
    expect(run({ args })).toEqual({ status: 0, stdout: "the configuration is good\n", stderr: "" });
    const gateway = await startBuiltGateway({
      folder,
      command: [process.execPath, bundle, "--config", "sample.toml"],
    });
    expect(await gateway.stop()).toBe(0);
  });
});

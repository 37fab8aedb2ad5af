import { spawnSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { chmodSync, cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { makeAuthority, makeKey } from "../../src/tls/authority.ts";
import { until } from "../support/client.ts";
import { bundle, makeFolder, startBuiltGateway, testEnv, type BuiltGateway } from "../support/gateway.ts";
import { getSecure, openSecure, shakeHands, writePair } from "./support.ts";

// TLS as a person meets it: the built file, its commands, what it says, and the programs that people have.

let folder = "";
let remove = (): void => undefined;
let running: BuiltGateway[] = [];
beforeEach(() => ({ folder, remove } = makeFolder()));
afterEach(async () => {
  for (const gateway of running) await gateway.stop("SIGKILL");
  running = [];
  remove();
});

function run(args: string[], env: Record<string, string> = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [bundle, ...args], {
    cwd: folder,
    env: {
      PATH: process.env["PATH"],
      ...testEnv,
      LAMBDAIOT_DATABASE_PATH: join(folder, "lambdaiot.db"),
      ...env,
    },
    encoding: "utf8",
    timeout: 20_000,
    killSignal: "SIGKILL",
  });
  return { status, stdout, stderr };
}

async function start(env: Record<string, string> = {}): Promise<BuiltGateway> {
  const gateway = await startBuiltGateway({ folder, env });
  running.push(gateway);
  return gateway;
}

const portOf = (url: string): number => Number(new URL(url).port);
const caFile = () => join(folder, "tls/ca.crt");
const read = (name: string): X509Certificate => new X509Certificate(readFileSync(join(folder, "tls", name)));
const has = (program: string): boolean => spawnSync(program, ["--help"]).error === undefined;

describe("cert init", () => {
  test("says what it has made and what to do; the gateway uses it, and says so at its start", async () => {
    const made = run(["cert", "init", "--name", "gateway.example.org", "--name", "203.0.113.9"]);
    expect(made).toMatchObject({ status: 0, stderr: "" });
    for (const said of [
      caFile(),
      read("ca.crt").fingerprint256,
      read("server.crt").fingerprint256,
      "gateway.example.org, 203.0.113.9",
      "/ca.crt",
      "--cafile ca.crt",
    ])
      expect(made.stdout).toContain(said);
    expect(run(["check-config"])).toEqual({ status: 0, stdout: "the configuration is good\n", stderr: "" });

    const gateway = await start();
    expect(gateway.log()).toContain(`SHA-256 ${read("server.crt").fingerprint256}, until 20`);
    const ca = readFileSync(caFile(), "utf8");
    expect((await getSecure(portOf(gateway.httpsUrl), "/health", ca)).status).toBe(200);
    expect(await gateway.stop()).toBe(0);
  });

  test("puts what it makes beside the store that the configuration names", () => {
    writeFileSync(join(folder, "my.toml"), '[database]\npath = "elsewhere/my.db"');
    const env = { LAMBDAIOT_DATABASE_PATH: "elsewhere/my.db" };
    expect(run(["cert", "init", "--config", "my.toml"], env).status).toBe(0);
    expect(readdirSync(join(folder, "elsewhere"))).toEqual(["tls"]);
  });

  test("does not touch a running gateway's store, and says where another certificate is configured", async () => {
    await start();
    const { files } = writePair(folder);
    const { status, stdout } = run(["cert", "init"], {
      LAMBDAIOT_TLS_CERTIFICATE: files.certificate,
      LAMBDAIOT_TLS_KEY: files.key,
    });
    expect(status).toBe(0);
    expect(stdout).toContain("tls.certificate");
  });

  test.each([
    [["cert"], "unknown command cert"],
    [["cert", "renew"], "unknown command cert renew"],
    [["cert", "init", "more"], "unexpected argument more"],
    [["run", "--force"], "--force is for cert init"],
    [["check-config", "--name", "a"], "--name is for cert init"],
    [["cert", "init", "--name", "a b"], '--name "a b" is neither a host name nor an IP address'],
  ])("%j is told in one line, with exit code 2", (args, says) => {
    const { status, stdout, stderr } = run(args);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr).toMatch(/^lambdaiot: [^\n]*\n$/);
    expect(stderr).toContain(says);
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe("files that are of no use end the start with one line and exit code 2", () => {
  const env = () => ({
    LAMBDAIOT_TLS_CERTIFICATE: join(folder, "given.pem"),
    LAMBDAIOT_TLS_KEY: join(folder, "given.key"),
  });
  const write = (name: string, text: string): void => writeFileSync(join(folder, name), text, { mode: 0o600 });

  test.each<[string, () => void, RegExp]>([
    ["no certificate", () => undefined, /given\.pem cannot be read: ENOENT/],
    ["no key", () => write("given.pem", cert()), /given\.key cannot be read: ENOENT/],
    ["a certificate that is a folder", () => mkdirSync(join(folder, "given.pem")), /given\.pem cannot be read: EISDIR/],
    ["no PEM", () => write("given.pem", "\u0001\u0002"), /given\.pem holds no certificate in PEM form/],
    [
      "a certificate cut short",
      () => write("given.pem", cert().slice(0, 400)),
      /given\.pem holds no certificate in PEM form/,
    ],
    [
      "a broken one behind it",
      () => write("given.pem", `${cert()}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n`),
      /given\.pem holds no certificate in PEM form, or a broken one/,
    ],
    [
      "a certificate for a key",
      () => {
        write("given.pem", cert());
        write("given.key", cert());
      },
      /given\.key holds no private key in PEM form/,
    ],
    [
      "another certificate's key",
      () => {
        writePair(folder);
        write("given.key", makeKey().export({ type: "pkcs8", format: "pem" }));
      },
      /given\.key is not the private key of \S*given\.pem/,
    ],
    [
      "a key with a passphrase",
      () => {
        const { key } = writePair(folder);
        const cipher = { type: "pkcs8", format: "pem", cipher: "aes-256-cbc", passphrase: "secret" } as const;
        write("given.key", key.export(cipher));
      },
      /given\.key is encrypted; the gateway needs a private key without a passphrase/,
    ],
    [
      "a key that others can read",
      () => {
        writePair(folder);
        chmodSync(join(folder, "given.key"), 0o644);
      },
      /given\.key can be read by others; make it yours alone: chmod 600 \S*given\.key/,
    ],
  ])("%s", (_, prepare, says) => {
    prepare();
    for (const args of [[], ["check-config"]]) {
      const { status, stdout, stderr } = run(args, env());
      expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
      expect(stderr).toMatch(/^lambdaiot: [^\n]*\n$/);
      expect(stderr).toMatch(says);
    }
  });

  const cert = (): string => makeAuthority({ host: "a", now: Date.now() }).certificate.toString();

  test("and none of the two alone will do", () => {
    const { status, stderr } = run([], { LAMBDAIOT_TLS_KEY: "a" });
    expect({ status, stderr }).toEqual({
      status: 2,
      stderr: "lambdaiot: tls.certificate and tls.key go together: set both or neither\n",
    });
  });

  test.each([
    ["LAMBDAIOT_TLS_MQTTS_PORT", "the MQTT broker", "tls.mqtts_port"],
    ["LAMBDAIOT_TLS_HTTPS_PORT", "the API", "tls.https_port"],
  ])("a port that is taken is named, with exit code 1: %s", async (variable, who, key) => {
    run(["cert", "init"]);
    const other = createServer().listen(0);
    await once(other, "listening");
    const { port } = other.address() as AddressInfo;
    const { status, stdout, stderr } = run([], { [variable]: String(port) });
    other.close();
    expect({ status, stdout, stderr }).toEqual({
      status: 1,
      stdout: "",
      stderr: `lambdaiot: ${who} cannot listen on port ${port} (${key}): EADDRINUSE\n`,
    });
  });
});

describe("while it runs", () => {
  test("SIGHUP has it read its certificate again, also where there is none; SIGTERM ends it all the same", async () => {
    const plain = await start();
    plain.process.kill("SIGHUP");
    await until(() => plain.log().includes("nothing to read again"));
    expect(await plain.stop()).toBe(0);

    run(["cert", "init"]);
    const ca = readFileSync(caFile(), "utf8");
    const gateway = await start();
    const port = portOf(gateway.mqttsUrl);
    // One that stays, and one that says nothing: neither keeps the gateway from ending.
    const [open] = [await openSecure(port, ca), await openSecure(portOf(gateway.httpsUrl), ca)];
    run(["cert", "init"]);
    gateway.process.kill("SIGHUP");
    await until(() => gateway.log().includes("the TLS certificate is a new one"));
    expect((await shakeHands(port, ca)).sha256).toBe(read("server.crt").fingerprint256);
    expect(open.closed).toBe(false);
    expect(await gateway.stop()).toBe(0);
  });

  test("TLS 1.2 and 1.3 are spoken, and nothing older, whatever Node is told; with a new certificate, too", async () => {
    run(["cert", "init"]);
    const ca = readFileSync(caFile(), "utf8");
    const gateway = await start({ NODE_OPTIONS: "--tls-min-v1.0 --tls-cipher-list=DEFAULT@SECLEVEL=0" });
    const old = { minVersion: "TLSv1", maxVersion: "TLSv1.1", ciphers: "DEFAULT@SECLEVEL=0" } as const;
    const look = async (): Promise<void> => {
      for (const port of [gateway.httpsUrl, gateway.mqttsUrl].map(portOf)) {
        expect((await shakeHands(port, ca)).protocol).toBe("TLSv1.3");
        expect((await shakeHands(port, ca, { maxVersion: "TLSv1.2" })).protocol).toBe("TLSv1.2");
        await expect(openSecure(port, ca, old)).rejects.toThrow(/alert protocol version/); // the gateway's word for it
      }
    };
    await look();
    run(["cert", "init"]);
    gateway.process.kill("SIGHUP");
    await until(() => gateway.log().includes("the TLS certificate is a new one"));
    await look();
  });

  test("links that lead elsewhere from one day to the next, as certbot has them", async () => {
    const [first, second] = [join(folder, "1"), join(folder, "2")];
    for (const one of [first, second]) mkdirSync(one);
    const { ca, authority } = writePair(first);
    const { sha256 } = writePair(second, { authority });
    expect(sha256).not.toBe(new X509Certificate(readFileSync(join(first, "given.pem"))).fingerprint256);
    const live = join(folder, "live");
    spawnSync("ln", ["-sfn", first, live]);
    const gateway = await start({
      LAMBDAIOT_TLS_CERTIFICATE: join(live, "given.pem"),
      LAMBDAIOT_TLS_KEY: join(live, "given.key"),
    });
    spawnSync("ln", ["-sfn", second, live]);
    await until(async () => (await shakeHands(portOf(gateway.mqttsUrl), ca)).sha256 === sha256, 20_000);
  });
});

describe("with the programs that people have", () => {
  test.skipIf(!has("curl") || !has("mosquitto_pub"))("curl and mosquitto_pub, by the authority alone", async () => {
    run(["cert", "init"]);
    const gateway = await start();
    const say = (program: string, ...args: string[]) => spawnSync(program, args, { encoding: "utf8", timeout: 10_000 });
    const { stdout } = say("curl", "-s", `${gateway.url}/ca.crt`);
    expect(stdout).toBe(readFileSync(caFile(), "utf8"));
    cpSync(caFile(), join(folder, "ca.crt"));
    for (const host of ["localhost", "127.0.0.1"]) {
      const url = `https://${host}:${portOf(gateway.httpsUrl)}/health`;
      expect(say("curl", "-s", "--cacert", join(folder, "ca.crt"), url)).toMatchObject({ stdout: '{"status":"ok"}' });
      expect(say("curl", "-s", url).status).toBe(60); // the peer's certificate cannot be authenticated
      const broker = ["-h", host, "-p", String(portOf(gateway.mqttsUrl)), "-q", "1"];
      const publish = [...broker, "-t", "hall", "-m", "1"];
      expect(say("mosquitto_pub", "--cafile", join(folder, "ca.crt"), ...publish)).toMatchObject({ status: 0 });
    }
  });
});

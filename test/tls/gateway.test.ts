import { chmodSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect, type Socket } from "node:net";
import { once } from "node:events";
import type { TLSSocket } from "node:tls";
import { afterEach, describe, expect, test } from "vitest";
import { ownFiles } from "../../src/tls/files.ts";
import { makeCertificates } from "../../src/tls/init.ts";
import { connectMqtt, createApi, openInbox, until } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway, type StartOptions } from "../support/gateway.ts";
import { connectFrame, publishFrame } from "../mqtt/gate-wire.ts";
import { getSecure, openSecure, shakeHands, writePair } from "./support.ts";

// The gateway with a certificate, over real sockets.

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

interface Secured {
  gateway: LocalGateway;
  folder: string;
  /** PEM of what signed its certificate. */
  ca: string;
  httpsPort: number;
  mqttsPort: number;
}

function newFolder(): string {
  const { folder, remove } = makeFolder();
  cleanUps.push(remove);
  return folder;
}

const init = (folder: string, options: { isForced?: boolean; now?: number } = {}) =>
  makeCertificates({ dataFolder: folder, names: [], isForced: false, now: Date.now(), ...options });

/** A gateway with the certificate that `cert init` makes, or with files that the configuration names. */
async function start(options: StartOptions & { folder?: string } = {}): Promise<Secured> {
  const folder = options.folder ?? newFolder();
  if (options.env?.["LAMBDAIOT_TLS_KEY"] === undefined && options.folder === undefined) init(folder);
  const gateway = await startLocalGateway({ ...options, folder });
  cleanUps.push(() => gateway.close());
  if (gateway.app.tls === undefined) throw new Error("no TLS");
  const { authority } = ownFiles(folder);
  const ca = options.env?.["LAMBDAIOT_TLS_KEY"] === undefined ? readFileSync(authority, "utf8") : "";
  return { gateway, folder, ca, ...gateway.app.tls };
}

/** A TCP connection that says what it is given, and nothing of TLS but for that. */
async function openRaw(port: number, bytes: string | Buffer = ""): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.on("error", () => undefined).resume();
  cleanUps.push(() => socket.destroy());
  if (bytes.length > 0) socket.write(bytes);
  return socket;
}

const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => (socket.closed ? resolve() : void socket.once("close", () => resolve())));

describe("a gateway with a certificate", () => {
  test("speaks HTTPS, MQTT over TLS and WebSocket over HTTPS, and goes on in plain", async () => {
    const { gateway, ca, httpsPort, mqttsPort } = await start();
    expect(await getSecure(httpsPort, "/health", ca)).toEqual({ status: 200, body: '{"status":"ok"}' });
    const urls = [
      gateway.mqttUrl,
      `mqtts://127.0.0.1:${mqttsPort}`,
      `ws://127.0.0.1:${gateway.app.httpPort}/mqtt`,
      `wss://127.0.0.1:${httpsPort}/mqtt`,
    ];
    const clients = await Promise.all(urls.map((url) => connectMqtt(url, { ca })));
    cleanUps.push(() => Promise.all(clients.map((client) => client.endAsync(true))));
    const inboxes = await Promise.all(clients.map((client) => openInbox(client, "hall")));
    for (const [i, client] of clients.entries()) await client.publishAsync("hall", JSON.stringify({ i }), { qos: 1 });
    for (const inbox of inboxes)
      for (const i of clients.keys()) expect(await inbox.next((body) => body["i"] === i)).toEqual({ i });
  });

  test("takes large messages, and more at once than may be in flight, over either transport", async () => {
    const { gateway, ca, httpsPort, mqttsPort } = await start({ env: { LAMBDAIOT_MQTT_MAX_INFLIGHT: "20" } });
    const listener = await connectMqtt(gateway.mqttUrl);
    cleanUps.push(() => listener.endAsync(true));
    const inbox = await openInbox(listener, "hall");
    const padding = "x".repeat(200_000);
    for (const url of [`mqtts://127.0.0.1:${mqttsPort}`, `wss://127.0.0.1:${httpsPort}/mqtt`]) {
      const client = await connectMqtt(url, { ca });
      const messages = Array.from({ length: 200 }, (_, i) =>
        JSON.stringify({ url, i, ...(i % 50 === 0 && { padding }) }),
      );
      await Promise.all(messages.map((message) => client.publishAsync("hall", message, { qos: 1 })));
      await client.endAsync();
      await inbox.next((body) => body["url"] === url && body["i"] === 199);
    }
    expect(inbox.messages).toHaveLength(400);
    expect(gateway.app.counters.get("mqtt.inflight_waits")).toBeGreaterThan(0);
  });

  test("is trusted by nobody who does not have its authority", async () => {
    const { gateway, httpsPort, mqttsPort } = await start();
    const stranger = writePair(newFolder()).ca;
    for (const port of [httpsPort, mqttsPort])
      await expect(shakeHands(port, stranger)).rejects.toThrow(/certificate|signature/);
    await expect(connectMqtt(`mqtts://127.0.0.1:${mqttsPort}`, { ca: stranger })).rejects.toThrow(
      /certificate|signature/,
    );
    await until(() => gateway.app.counters.get("tls.handshakes_failed") === 3);
  });

  test("gives its authority's certificate to anybody, over HTTP too, and none of another's", async () => {
    const { gateway, ca, httpsPort } = await start();
    const { status, headers, body } = await createApi(gateway.url)("GET", "/ca.crt");
    expect({ status, body, type: headers.get("Content-Type") }).toEqual({
      status: 200,
      body: ca,
      type: "application/x-x509-ca-cert",
    });
    expect(await getSecure(httpsPort, "/ca.crt", ca)).toEqual({ status: 200, body: ca });
    expect(body).not.toContain("PRIVATE");

    const without = await startLocalGateway();
    cleanUps.push(() => without.close());
    expect(without.app.tls).toBeUndefined();
    const missing = await createApi(without.url)("GET", "/ca.crt");
    expect({ status: missing.status, body: missing.body }).toEqual({
      status: 404,
      body: { error: "the gateway has no certificate authority of its own" },
    });
  });

  test("knows by their addresses who comes: what is for the local network is for it alone", async () => {
    const { ca, httpsPort, mqttsPort } = await start({ env: { LAMBDAIOT_MQTT_ANONYMOUS: "lan" } });
    await (await connectMqtt(`mqtts://127.0.0.1:${mqttsPort}`, { ca })).endAsync();
    expect((await getSecure(httpsPort, "/devices", ca)).status).toBe(200);
    const off = await start({ env: { LAMBDAIOT_MQTT_ANONYMOUS: "off", LAMBDAIOT_AUTH_PUBLIC_DEVICES: "off" } });
    await expect(connectMqtt(`mqtts://127.0.0.1:${off.mqttsPort}`, { ca: off.ca })).rejects.toThrow(/Not authorized/);
    expect((await getSecure(off.httpsPort, "/devices", off.ca)).status).toBe(403);
  });
});

describe("limits hold over TLS as they do without", () => {
  test("connections of one address: those with their handshake before them count, and over both ports", async () => {
    const { gateway, ca, mqttsPort } = await start({ env: { LAMBDAIOT_MQTT_MAX_CONNECTIONS_PER_ADDRESS: "3" } });
    const { counters, mqttPort } = gateway.app;
    const [plain, silent] = [await openRaw(mqttPort), await openRaw(mqttsPort)];
    const device = await connectMqtt(`mqtts://127.0.0.1:${mqttsPort}`, { ca });
    cleanUps.push(() => device.endAsync(true));
    await expect(openSecure(mqttsPort, ca)).rejects.toThrow(/socket disconnected|ECONNRESET/);
    expect(counters.get("mqtt.gate.address_full")).toBe(1);
    expect(counters.get("tls.handshakes_failed")).toBe(0); // it did not come so far
    // Whoever leaves makes room, in whatever state.
    for (const leaving of [plain, silent]) {
      leaving.destroy();
      const next = await until(() => connectMqtt(`mqtts://127.0.0.1:${mqttsPort}`, { ca }).catch(() => undefined));
      cleanUps.push(() => next.endAsync(true));
    }
    await expect(openSecure(mqttsPort, ca)).rejects.toThrow(/socket disconnected|ECONNRESET/);
  });

  test("connections of all together, on each port", async () => {
    const env = { LAMBDAIOT_MQTT_MAX_CONNECTIONS: "1", LAMBDAIOT_SERVER_MAX_CONNECTIONS: "1" };
    const { gateway, ca, httpsPort, mqttsPort } = await start({ env });
    for (const [port, counter] of [
      [mqttsPort, "mqtt.connections_dropped"],
      [httpsPort, "http.connections_dropped"],
    ] as const) {
      await openSecure(port, ca).then((socket) => cleanUps.push(() => socket.destroy()));
      await expect(openSecure(port, ca)).rejects.toThrow(/socket disconnected|ECONNRESET/);
      expect(gateway.app.counters.get(counter)).toBe(1);
    }
    await (await connectMqtt(gateway.mqttUrl)).endAsync(); // those in plain have places of their own
  });

  test("the gate: what is no MQTT, what is too large, and what says nothing", async () => {
    const { gateway, ca, mqttsPort } = await start({ env: { LAMBDAIOT_MQTT_CONNECT_TIMEOUT: "1" } });
    const { counters } = gateway.app;
    const huge = publishFrame("a", Buffer.alloc(300_000));
    for (const [bytes, counter] of [
      [Buffer.from("GET / HTTP/1.1\r\n\r\n"), "mqtt.gate.not_connect"],
      [Buffer.concat([connectFrame({ clientId: "a" }), huge]), "mqtt.gate.too_large"],
      [Buffer.alloc(0), "mqtt.gate.connect_timeout"],
    ] as const) {
      const socket = await openSecure(mqttsPort, ca);
      socket.resume().write(bytes);
      await closed(socket);
      expect(counters.get(counter)).toBe(1);
    }
  });

  test("HTTPS: headers that are too large", async () => {
    const { ca, httpsPort } = await start();
    const socket = await openSecure(httpsPort, ca);
    socket.write(`GET / HTTP/1.1\r\nHost: a\r\nX: ${"x".repeat(10_000)}\r\n\r\n`);
    const [answer] = (await once(socket, "data")) as [Buffer];
    expect(answer.toString()).toMatch(/^HTTP\/1\.1 431 /);
    socket.destroy();
  });

  test("HTTPS: an upgrade that leads nowhere is answered, and one that is given up does no harm", async () => {
    const { ca, httpsPort } = await start();
    const ask = async (path: string): Promise<TLSSocket> => {
      const socket = await openSecure(httpsPort, ca);
      socket.write(`GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`);
      return socket;
    };
    const astray = await ask("/");
    expect(String((await once(astray, "data"))[0])).toMatch(/^HTTP\/1\.1 404 /);
    astray.destroy();
    (await ask("/mqtt")).destroy();
    expect((await getSecure(httpsPort, "/hello", ca)).status).toBe(200);
  });
});

describe("handshakes that come to nothing", () => {
  test("are counted, logged once for all, and do no harm: garbage, plain protocols, a reset, a hello cut short", async () => {
    const { gateway, ca, httpsPort, mqttsPort } = await start();
    const hello = Buffer.from("16030100c8010000c40303", "hex"); // the beginning of a ClientHello
    const says = [
      "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
      connectFrame({ clientId: "a" }),
      Buffer.alloc(20_000, 0xff),
      Buffer.from("1603010005010000010000", "hex"),
      Buffer.from("15030100020100", "hex"),
    ];
    for (const port of [httpsPort, mqttsPort]) {
      for (const bytes of says) await closed(await openRaw(port, bytes));
      for (const bytes of ["", hello]) (await openRaw(port, bytes)).resetAndDestroy();
      for (const bytes of ["", hello]) (await openRaw(port, bytes)).end();
    }
    await until(() => gateway.app.counters.get("tls.handshakes_failed") === 2 * (says.length + 4));
    expect(gateway.log().match(/TLS handshake failed/g)).toHaveLength(1);
    for (const port of [httpsPort, mqttsPort]) expect((await shakeHands(port, ca)).protocol).toBe("TLSv1.3");
  });

  test("end when their time is over", async () => {
    const { gateway, httpsPort, mqttsPort } = await start({ env: { LAMBDAIOT_TLS_HANDSHAKE_TIMEOUT: "1" } });
    const silent = await Promise.all([openRaw(httpsPort), openRaw(mqttsPort), openRaw(mqttsPort, "\x16\x03\x01")]);
    await Promise.all(silent.map(closed));
    expect(gateway.app.counters.get("tls.handshakes_failed")).toBe(3);
    expect(gateway.log()).toContain("TLS handshake failed reason=ERR_TLS_HANDSHAKE_TIMEOUT");
  });

  test("are cut off when the gateway ends", async () => {
    const { gateway, httpsPort, mqttsPort } = await start({ env: { LAMBDAIOT_TLS_HANDSHAKE_TIMEOUT: "300" } });
    const silent = await Promise.all([openRaw(httpsPort), openRaw(mqttsPort)]);
    cleanUps.splice(cleanUps.length - 3, 1); // closed here already
    await gateway.close();
    await Promise.all(silent.map(closed));
    expect(gateway.app.counters.get("tls.handshakes_failed")).toBe(2);
  });
});

describe("a new certificate", () => {
  test("is taken up while connections stay open: they go on, and new ones get it", async () => {
    const { gateway, folder, ca, httpsPort, mqttsPort } = await start();
    const old = gateway.app.tls?.certificate.fingerprint256;
    const device = await connectMqtt(`mqtts://127.0.0.1:${mqttsPort}`, { ca });
    cleanUps.push(() => device.endAsync(true));
    const inbox = await openInbox(device, "hall");
    for (const port of [httpsPort, mqttsPort]) expect((await shakeHands(port, ca)).sha256).toBe(old);

    const { certificate } = init(folder);
    gateway.app.reload();
    // The same authority: nobody who trusts it notices.
    for (const port of [httpsPort, mqttsPort])
      expect((await shakeHands(port, ca)).sha256).toBe(certificate.fingerprint256);
    await device.publishAsync("hall", '{"still":"here"}', { qos: 1 });
    expect(await inbox.next(() => true)).toEqual({ still: "here" });
    expect(gateway.log()).toContain(`the TLS certificate is a new one sha256=${certificate.fingerprint256}`);
  });

  test("also reaches a client that resumes a session", async () => {
    const { gateway, folder, ca, httpsPort } = await start();
    const { session } = await shakeHands(httpsPort, ca, { maxVersion: "TLSv1.2" });
    const again = { maxVersion: "TLSv1.2", session } as const;
    expect((await shakeHands(httpsPort, ca, again)).isReused).toBe(true);
    const { certificate } = init(folder);
    gateway.app.reload();
    expect(await shakeHands(httpsPort, ca, again)).toMatchObject({
      isReused: false,
      sha256: certificate.fingerprint256,
    });
  });

  test("with a new authority: that one is given out from then on", async () => {
    const { gateway, folder, ca, mqttsPort } = await start();
    init(folder, { isForced: true });
    gateway.app.reload();
    await expect(shakeHands(mqttsPort, ca)).rejects.toThrow(/certificate|signature/);
    const { body } = await createApi(gateway.url)("GET", "/ca.crt");
    expect(body).not.toBe(ca);
    expect((await shakeHands(mqttsPort, body as string)).protocol).toBe("TLSv1.3");
  });

  test("that cannot be used is logged, and the old one stays until a good one is there", async () => {
    const folder = newFolder();
    const { files, ca, sha256, authority, key } = writePair(folder);
    const env = { LAMBDAIOT_TLS_CERTIFICATE: files.certificate, LAMBDAIOT_TLS_KEY: files.key };
    const { gateway, mqttsPort } = await start({ env, folder });
    const cert = readFileSync(files.certificate, "utf8");

    const breaks: [string, () => void, RegExp][] = [
      ["half written", () => writeFileSync(files.certificate, cert.slice(0, 300)), /holds no certificate/],
      ["empty", () => writeFileSync(files.certificate, ""), /holds no certificate/],
      ["gone", () => rmSync(files.certificate), /cannot be read: ENOENT/],
      [
        "another key's",
        () => {
          writePair(folder, { authority });
          writeFileSync(files.certificate, cert);
        },
        /is not the private key/,
      ],
    ];
    for (const [i, [, spoil, says]] of breaks.entries()) {
      spoil();
      gateway.app.reload();
      expect(gateway.log().trim().split("\n").at(-1)).toMatch(says);
      expect(gateway.app.counters.get("tls.reloads_failed")).toBe(i + 1);
      expect((await shakeHands(mqttsPort, ca)).sha256).toBe(sha256);
    }
    const good = writePair(folder, { authority, key });
    chmodSync(files.key, 0o640);
    gateway.app.reload();
    expect(gateway.log()).toMatch(/given\.key can be read by others/);
    chmodSync(files.key, 0o600);
    gateway.app.reload();
    expect((await shakeHands(mqttsPort, ca)).sha256).toBe(good.sha256);
  });

  test("that is found without being told and cannot be used does no harm either", async () => {
    const { gateway, folder, ca, mqttsPort } = await start();
    rmSync(join(folder, "tls"), { recursive: true });
    writeFileSync(join(folder, "tls"), "no folder any more");
    await until(() => gateway.log().includes("cannot be read: ENOTDIR"), 20_000);
    expect((await shakeHands(mqttsPort, ca)).sha256).toBe(gateway.app.tls?.certificate.fingerprint256);
  });

  test("is found without being told, once its files stand still", async () => {
    const { gateway, folder, ca, mqttsPort } = await start();
    const { certificate } = init(folder);
    await until(async () => (await shakeHands(mqttsPort, ca)).sha256 === certificate.fingerprint256, 20_000);
    expect(gateway.app.counters.get("tls.reloads_failed")).toBe(0);
  });
});

describe("the end of a certificate", () => {
  const dayMs = 86_400_000;
  test.each([
    ["far off", 100, /^$/],
    [
      "within thirty days",
      20,
      /the TLS certificate ends soon file=\S+ until=\d{4}-\d\d-\d\d renew="lambdaiot cert init" days=20/,
    ],
    ["past", -1, /the TLS certificate has ended; clients refuse it until it is renewed/],
    [
      "past, with a clock that has not been set",
      825 + 50,
      /the TLS certificate is not valid yet; is the clock right\?/,
    ],
  ])("%s", async (_, days, says) => {
    const folder = newFolder();
    const { certificate } = init(folder);
    const at = certificate.validToDate.getTime() - days * dayMs - dayMs / 2;
    const { gateway, ca, mqttsPort } = await start({ folder, now: () => at });
    const warnings = gateway
      .log()
      .split("\n")
      .filter((line) => / warn .*TLS/.test(line));
    expect(warnings.join("\n")).toMatch(says);
    // It is served all the same: a device may not look at dates.
    expect((await shakeHands(mqttsPort, ca)).protocol).toBe("TLSv1.3");
  });
});

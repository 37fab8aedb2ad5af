import type { LookupAddress } from "node:dns";
import { createServer } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { findForbiddenTarget } from "../../src/core/targets.ts";
import type { Attempt } from "../../src/core/deliveries.ts";
import { createSender, type SenderOptions } from "../../src/jobs/send.ts";
import { logIn, until, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import { openReceiver, type Receiver } from "./receiver.ts";

// Where webhooks may not lead: said at once where the URL alone shows it, and found out at the connection where not.

let gateway: LocalGateway;
let api: Api;
let receiver: Receiver;

beforeAll(async () => {
  gateway = await startLocalGateway({ env: { LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000" } });
  api = await logIn(gateway.url);
  receiver = await openReceiver();
});
afterAll(async () => {
  await gateway.close();
  await receiver.close();
});
afterEach(() => void receiver.received.splice(0));

const create = (url: string) => api("POST", "/v1/webhooks", { url, events: ["device.online"] });

/** What comes of a test call to `url`, from the log of deliveries. */
async function call(url: string): Promise<{ error: string | null; status: string; attempts: number }> {
  const { status, body } = await create(url);
  expect(status).toBe(201);
  await api("POST", `/v1/webhooks/${body.id}/test`);
  const tried = await until(async () => {
    const { deliveries } = (await api("GET", `/v1/webhooks/${body.id}/deliveries`)).body;
    return deliveries[0].attempts > 0 && deliveries[0];
  });
  await api("DELETE", `/v1/webhooks/${body.id}`);
  return tried;
}

describe("a URL is refused when the webhook is made", () => {
  test.each([
    ["cloud metadata", "http://169.254.169.254/latest/meta-data"],
    ["link-local IPv4", "http://169.254.7.7/"],
    ["link-local IPv6", "http://[fe80::1]/"],
    ["link-local IPv6 at its end", "http://[febf:ffff::1]:8080/"],
    ["the unspecified IPv4 address", "http://0.0.0.0:8080/"],
    ["the unspecified IPv6 address", "http://[::]:8080/"],
    ["this network", "http://0.1.2.3/"],
    ["multicast", "http://239.1.2.3/"],
    ["IPv6 multicast", "http://[ff02::1]/"],
    ["broadcast", "http://255.255.255.255/"],
    ["metadata of another cloud", "http://100.100.100.200/"],
    ["metadata over IPv6", "http://[fd00:ec2::254]/"],
    ["metadata, decimal", "http://2852039166/"],
    ["metadata, hexadecimal", "http://0xa9fea9fe/"],
    ["metadata, octal", "http://0251.0376.0251.0376/"],
    ["metadata, mixed", "http://169.0xfe.43518/"],
    ["metadata, with a dot behind", "http://169.254.169.254./"],
    ["metadata, IPv4-mapped", "http://[::ffff:169.254.169.254]/"],
    ["metadata, IPv4-mapped in hexadecimal", "http://[::ffff:a9fe:a9fe]/"],
    ["metadata, IPv4-compatible", "http://[::a9fe:a9fe]/"],
    ["metadata, IPv4-translated", "http://[::ffff:0:a9fe:a9fe]/"],
    ["metadata behind NAT64", "http://[64:ff9b::a9fe:a9fe]/"],
    ["the unspecified address, IPv4-mapped", "http://[::ffff:0.0.0.0]/"],
    ["the unspecified address, short", "http://0/"],
    ["full-width digits", "http://１６９.２５４.１６９.２５４/"],
  ])("%s: %s", async (_name, url) => {
    const { status, body } = await create(url);
    expect({ status, ...body.error }).toMatchObject({
      status: 400,
      code: "VALIDATION_ERROR",
      message: expect.stringMatching(/^url leads to .+, which no webhook may call$/) as string,
      details: { field: "url" },
    });
  });

  test.each([
    ["", "url must be an http or https URL"],
    ["receiver", "url must be an http or https URL"],
    ["/hooks", "url must be an http or https URL"],
    ["ftp://192.168.1.20/", "url must be an http or https URL"],
    ["file:///etc/passwd", "url must be an http or https URL"],
    ["http://[fe80::1%25eth0]/", "url must be an http or https URL"],
    ["http://user@192.168.1.20/", "url must not carry a user or a password"],
    ["http://user:password@192.168.1.20/", "url must not carry a user or a password"],
    [`http://192.168.1.20/${"x".repeat(2_048)}`, "url must not be longer than 2048 characters"],
  ])("for what it is: %s", async (url, message) => {
    const { status, body } = await create(url);
    expect(status).toBe(400);
    expect(body.error).toEqual({ code: "VALIDATION_ERROR", message, details: { field: "url" } });
  });
});

describe("a private address is allowed", () => {
  test.each([
    "http://192.168.1.20:8123/hooks",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://[fd12::7]/",
    "https://nas.local/",
  ])("%s", async (url) => {
    const { status, body } = await create(url);
    expect(status).toBe(201);
    await api("DELETE", `/v1/webhooks/${body.id}`);
  });

  test("this machine's too, on another port than the gateway's", async () => {
    for (const host of ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"]) {
      await expect(call(`http://${host}:${receiver.port}/`)).resolves.toMatchObject({ status: "delivered" });
    }
    expect(receiver.received).toHaveLength(4);
  });
});

describe("the gateway's own ports are refused at the connection", () => {
  const ownAddresses = Object.values(networkInterfaces())
    .flatMap((all) => all ?? [])
    // A link-local address is refused by itself, and needs a zone.
    .filter(({ internal, address }) => !internal && !address.startsWith("fe80:"))
    .map(({ address, family }) => ({ address, family }));

  function* hosts(): Generator<string> {
    yield* ["127.0.0.1", "localhost", "[::1]", "127.1.2.3", "2130706433", "0x7f000001", "017700000001"];
    yield* ["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]"];
    for (const { address, family } of ownAddresses) {
      if (family === "IPv6") yield `[${address}]`;
      else {
        yield address;
        yield `[::ffff:${address}]`;
      }
    }
  }

  test.each([...hosts()])("as %s", async (host) => {
    for (const port of [gateway.app.httpPort, gateway.app.mqttPort]) {
      const { error, status } = await call(`http://${host}:${port}/v1/health`);
      expect({ error, status }).toEqual({
        error: "refused: it leads to this gateway itself",
        status: "pending",
      });
    }
  });
});

describe("a name is looked up and checked at each connection", () => {
  const addresses = (...all: string[]): LookupAddress[] =>
    all.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));

  /** A sender for whom `receiver.example` is, lookup by lookup, what `answers` says. */
  function senderOf(answers: LookupAddress[][], options: Partial<SenderOptions> = {}) {
    const lookedUp: string[] = [];
    const resolve = ((name: string, _options: object, callback: (error: null, found: LookupAddress[]) => void) => {
      lookedUp.push(name);
      callback(null, answers[lookedUp.length - 1] ?? answers.at(-1) ?? []);
    }) as unknown as NonNullable<SenderOptions["resolve"]>;
    const send = createSender({ ownPorts: () => [], now: Date.now, resolve, ...options });
    return {
      lookedUp,
      send: (url = `http://receiver.example:${receiver.port}/hook`): Promise<Attempt> =>
        send({ url, headers: {}, body: "{}", signal: new AbortController().signal }),
    };
  }

  test("and is not what it was: fine at first, then cloud metadata", async () => {
    const { send, lookedUp } = senderOf([addresses("127.0.0.1"), addresses("169.254.169.254")]);
    await expect(send()).resolves.toMatchObject({ status: 204 });
    await expect(send()).resolves.toEqual({
      error: "refused: it leads to 169.254.169.254, which no webhook may call",
    });
    expect(receiver.received).toHaveLength(1);
    expect(lookedUp).toEqual(["receiver.example", "receiver.example"]);
  });

  test.each([
    ["link-local", "fe80::1"],
    ["link-local with a zone", "fe80::1%lo"],
    ["IPv4-mapped metadata", "::ffff:169.254.169.254"],
    ["unspecified", "0.0.0.0"],
    ["unspecified IPv6", "::"],
  ])("which may be %s", async (_name, address) => {
    const { send } = senderOf([addresses(address)]);
    await expect(send()).resolves.toEqual({ error: `refused: it leads to ${address}, which no webhook may call` });
  });

  test("and one forbidden address among several is enough", async () => {
    for (const all of [
      ["127.0.0.1", "169.254.169.254"],
      ["169.254.169.254", "127.0.0.1"],
      ["::1", "127.0.0.1", "fe80::1"],
    ]) {
      const { error } = await senderOf([addresses(...all)]).send();
      expect(error).toMatch(/^refused: it leads to (?:169\.254\.169\.254|fe80::1), which no webhook may call$/);
    }
    expect(receiver.received).toEqual([]);
  });

  test("and may not be this machine on one of the gateway's ports", async () => {
    const own = { ownPorts: () => [receiver.port] };
    for (const address of ["127.0.0.1", "::1", "::ffff:7f00:1"]) {
      await expect(senderOf([addresses(address)], own).send()).resolves.toEqual({
        error: "refused: it leads to this gateway itself",
      });
    }
    expect(receiver.received).toEqual([]);
  });

  test("and the port of the scheme counts where the URL names none", async () => {
    for (const [url, port] of [
      ["http://receiver.example/", 80],
      ["https://receiver.example/", 443],
    ] as const) {
      await expect(senderOf([addresses("127.0.0.1")], { ownPorts: () => [port] }).send(url)).resolves.toEqual({
        error: "refused: it leads to this gateway itself",
      });
    }
  });

  test("and a name that nobody knows is a failure like any other", async () => {
    const resolve = ((_name: string, _options: object, callback: (error: Error) => void) =>
      callback(Object.assign(new Error("getaddrinfo ENOTFOUND"), { code: "ENOTFOUND" }))) as unknown as NonNullable<
      SenderOptions["resolve"]
    >;
    await expect(senderOf([], { resolve }).send()).resolves.toEqual({ error: "ENOTFOUND" });
    await expect(senderOf([[]]).send()).resolves.toHaveProperty("error");
  });
});

test("a redirect to a forbidden place is not followed", async () => {
  const redirecting = createServer((_request, response) =>
    response.writeHead(307, { Location: `${gateway.url}/register` }).end(),
  );
  redirecting.listen(0, "127.0.0.1");
  await once(redirecting, "listening");
  const { port } = redirecting.address() as AddressInfo;
  await expect(call(`http://127.0.0.1:${port}/`)).resolves.toMatchObject({ error: "HTTP 307" });
  redirecting.close();
});

test("what is a name, and not an address, is not judged by its looks", () => {
  for (const name of ["fe80.example", "169.254.169.254.example", "localhost"])
    expect(findForbiddenTarget(name)).toBeUndefined();
});

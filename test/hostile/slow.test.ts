import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createApi, logIn, until, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";

// Clients of the API that take their time, hang up, or ask for another protocol. They get an end, and nobody else notices.

const { folder, remove } = makeFolder();
let gateway: BuiltGateway;
let api: Api;

beforeAll(async () => {
  gateway = await startBuiltGateway({ folder });
  api = await logIn(gateway.url);
});
afterAll(async () => {
  await gateway.stop("SIGKILL");
  remove();
});

interface Line {
  socket: Socket;
  /** All that the gateway has said by the time it hangs up. */
  ended: Promise<string>;
}

/** A connection on which `text` has been sent, byte for byte. */
function send(text: string): Promise<Line> {
  const { hostname, port } = new URL(gateway.url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname).once("error", reject);
    let answer = "";
    socket.setEncoding("utf8").on("data", (chunk: string) => (answer += chunk));
    const ended = new Promise<string>((settle) => socket.once("close", () => settle(answer)));
    socket.once("connect", () => {
      socket.off("error", reject).on("error", () => undefined); // cut off
      socket.write(text, () => resolve({ socket, ended }));
    });
  });
}

const post = (framing: string, start: string): string =>
  `POST /devices HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${api.token}\r\nContent-Type: application/json\r\n${framing}\r\n\r\n${start}`;
const upgrade = (path: string, protocol: string): string =>
  `GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: ${protocol}\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n\r\n`;

test("who sends nothing, or a byte now and then, is told so and cut off", { timeout: 120_000 }, async () => {
  const trickles = [
    await send("GET /hello HTTP/1.1\r\nHost: a\r\nX-Slow: "),
    await send(post("Content-Length: 1000", '{"name":"')),
    await send(post("Transfer-Encoding: chunked", '3e8\r\n{"name":"')),
  ];
  const silent = await send("");
  const drip = setInterval(() => {
    for (const { socket } of trickles) if (socket.writable) socket.write("x");
  }, 1_000);
  try {
    let isOver = false;
    const all = Promise.all([...trickles, silent].map(({ ended }) => ended)).finally(() => (isOver = true));
    // Everybody else is served all the while.
    await until(async () => {
      expect((await api("GET", "/devices")).status).toBe(200);
      return isOver;
    }, 110_000);
    for (const answer of await all) expect(answer).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n/);
  } finally {
    clearInterval(drip);
  }
  expect((await api("GET", "/devices")).body).toEqual([]);
});

test("who hangs up amid a body is no error of the gateway's", async () => {
  for (const framing of ["Content-Length: 1000", "Transfer-Encoding: chunked"]) {
    const { socket, ended } = await send(post(framing, framing.startsWith("T") ? '9\r\n{"name":"\r\n' : '{"name":"'));
    await api("GET", "/hello"); // the handler waits for the rest by now
    socket.resetAndDestroy();
    await ended;
  }
  expect((await api("GET", "/devices")).body).toEqual([]);
  expect(gateway.log()).not.toMatch(/request failed| error /);
});

test("who asks for another protocol and hangs up does not take the gateway along", async () => {
  for (let i = 0; i < 50; i++) {
    for (const path of ["/", "/mqtt"]) {
      const { socket, ended } = await send(upgrade(path, "websocket"));
      if (i % 2 === 0) await new Promise((resolve) => setImmediate(resolve));
      socket.resetAndDestroy();
      await ended;
    }
  }
  expect((await api("GET", "/hello")).status).toBe(200);
  expect(gateway.process.exitCode).toBeNull();
});

test("an upgrade that the gateway does not offer is answered as if nobody had asked for it", async () => {
  for (const [path, protocol, status, body] of [
    ["/hello", "h2c", 200, '{"message":"hello from lambdaiot"}'],
    ["/mqtt", "h2c", 404, '{"error":"resource not found"}'],
    ["/elsewhere", "websocket", 404, '{"error":"resource not found"}'],
    ["/v1/elsewhere", "websocket", 404, '{"error":{"code":"NOT_FOUND","message":"resource not found","details":{}}}'],
  ] as const) {
    const { ended } = await send(upgrade(path, protocol).replace("Connection: Upgrade", "Connection: close, Upgrade"));
    const answer = await ended;
    expect([path, answer.slice(0, 12), answer.split("\r\n\r\n")[1]]).toEqual([path, `HTTP/1.1 ${status}`, body]);
  }
  expect((await createApi(gateway.url)("GET", "/hello")).status).toBe(200);
});

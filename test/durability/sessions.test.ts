import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import mqttPacket, { type Packet } from "mqtt-packet";
import { afterAll, expect, test } from "vitest";
import { until } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { createRandom, seed } from "../support/random.ts";

// The broker's own promises over kills: what a publisher saw acknowledged reaches a persistent subscriber, QoS 2 once.
// The clients are made by hand: they keep their side's state over lost connections as MQTT 3.1.1 section 4.4 asks for.

const random = createRandom(seed);
const kills = 20;
const publishers = 4;
/** Small, so that identifiers are used again and again. */
const identifiers = 12;

const { folder, remove } = makeFolder();
let gateway: BuiltGateway | undefined;
afterAll(async () => {
  await gateway?.stop("SIGKILL");
  remove();
});

interface Line {
  send(packet: Packet): void;
  isOpen(): boolean;
  close(): void;
  closed: Promise<unknown>;
}

/** Connects with a session to keep. `undefined`: the gateway is not there. @returns the line, and CONNACK's session flag */
async function dial(
  port: number,
  clientId: string,
  take: (packet: Packet, line: Line) => void,
): Promise<{ line: Line; isSessionPresent: boolean } | undefined> {
  const socket: Socket = connect(port, "127.0.0.1");
  socket.setNoDelay(true);
  const parser = mqttPacket.parser();
  const closed = new Promise((resolve) => void socket.once("close", resolve));
  socket.on("error", () => undefined);
  const line: Line = {
    send: (packet) => void (socket.writable && socket.write(mqttPacket.generate(packet))),
    isOpen: () => socket.writable,
    close: () => socket.destroy(),
    closed,
  };
  const accepted = new Promise<boolean>((resolve) => {
    parser.on("packet", (packet: Packet) => {
      if (packet.cmd === "connack") resolve(packet.sessionPresent);
      else take(packet, line);
    });
  });
  socket.on("data", (chunk: Buffer) => void parser.parse(chunk));
  line.send({ cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clean: false, clientId, keepalive: 0 });
  const isSessionPresent = await Promise.race([accepted, closed.then(() => undefined)]);
  return isSessionPresent === undefined ? undefined : { line, isSessionPresent };
}

type State = { text: string; qos: 1 | 2; isReleased: boolean };

function startPublisher(index: number, port: number) {
  const inFlight = new Map<number, State>();
  const acknowledged = { 1: new Set<string>(), 2: new Set<string>() };
  const stopping = new AbortController();
  let count = 0;
  let nextId = 0;

  const publish = (id: number, { text, qos }: State, dup: boolean): Packet => ({
    cmd: "publish",
    topic: `load/${index}`,
    payload: Buffer.from(text),
    qos,
    dup,
    retain: false,
    messageId: id,
  });

  function take(packet: Packet, line: Line): void {
    const id = packet.messageId ?? 0;
    const state = inFlight.get(id);
    if (state === undefined) return;
    if (packet.cmd === "puback" || packet.cmd === "pubcomp") {
      acknowledged[state.qos].add(state.text);
      inFlight.delete(id);
    } else if (packet.cmd === "pubrec") {
      state.isReleased = true;
      acknowledged[2].add(state.text);
      line.send({ cmd: "pubrel", messageId: id });
    }
  }

  const done = (async () => {
    while (!stopping.signal.aborted || inFlight.size > 0) {
      const dialled = await dial(port, `publisher-${index}`, take);
      if (dialled === undefined) {
        await sleep(30);
        continue;
      }
      const { line } = dialled;
      for (const [id, state] of inFlight) {
        line.send(state.isReleased ? { cmd: "pubrel", messageId: id } : publish(id, state, true));
      }
      while (line.isOpen() && (!stopping.signal.aborted || inFlight.size > 0)) {
        while (!stopping.signal.aborted && inFlight.size < 6) {
          do nextId = (nextId % identifiers) + 1;
          while (inFlight.has(nextId));
          const state: State = { text: `${index}:${count}`, qos: count % 2 === 0 ? 1 : 2, isReleased: false };
          count += 1;
          inFlight.set(nextId, state);
          line.send(publish(nextId, state, false));
        }
        await Promise.race([sleep(4), line.closed]);
      }
      line.close();
    }
  })();
  return {
    acknowledged,
    count: () => count,
    stop: () => {
      stopping.abort();
      return done;
    },
  };
}

/** Away for a while now and then, so that messages wait in its queue over kills. */
function startSubscriber(port: number) {
  const received: Record<string, number> = {};
  /** Identifiers of QoS 2 messages whose PUBREL has not come. */
  const unreleased = new Set<number>();
  const sessions: boolean[] = [];
  const stopping = new AbortController();
  let isSubscribed = false;

  function take(packet: Packet, line: Line): void {
    if (packet.cmd === "suback") isSubscribed = true;
    if (packet.cmd === "pubrel") {
      unreleased.delete(packet.messageId ?? 0);
      line.send({ cmd: "pubcomp", messageId: packet.messageId ?? 0 });
    }
    if (packet.cmd !== "publish") return;
    const id = packet.messageId ?? 0;
    const isRepeated = packet.qos === 2 && unreleased.has(id);
    if (!isRepeated) {
      const text = `${packet.qos} ${packet.payload.toString()}`;
      received[text] = (received[text] ?? 0) + 1;
    }
    if (packet.qos === 2) {
      unreleased.add(id);
      line.send({ cmd: "pubrec", messageId: id });
    }
    if (packet.qos === 1) line.send({ cmd: "puback", messageId: id });
  }

  const done = (async () => {
    while (!stopping.signal.aborted) {
      const dialled = await dial(port, "subscriber", take);
      if (dialled === undefined) {
        await sleep(30);
        continue;
      }
      const { line, isSessionPresent } = dialled;
      if (isSubscribed) sessions.push(isSessionPresent);
      else line.send({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic: "load/#", qos: 2 }] });
      await Promise.race([line.closed, sleep(200 + random() * 400)]);
      while (stopping.signal.aborted && line.isOpen()) await sleep(20);
      line.close();
      await sleep(random() * 200);
    }
  })();
  return {
    received,
    sessions,
    isSubscribed: () => isSubscribed,
    /** Ends it where it is away or comes back to; the last connection stays until `finish`. */
    stop: () => {
      stopping.abort();
      return done;
    },
  };
}

/** What is retained under `retained/#`, as a new subscriber sees it; waits for as much as is expected. */
async function readRetained(port: number, expected: Record<string, string>): Promise<Record<string, string>> {
  const retained: Record<string, string> = {};
  const dialled = await dial(port, `reader-${random()}`, (packet) => {
    if (packet.cmd === "publish" && packet.retain) retained[packet.topic] = packet.payload.toString();
  });
  dialled?.line.send({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic: "retained/#", qos: 0 }] });
  await until(() => Object.keys(retained).length >= Object.keys(expected).length, 3_000).catch(() => undefined);
  await sleep(20); // and for what should not be there
  dialled?.line.close();
  await dialled?.line.closed;
  return retained;
}

/** Changes retained messages, and takes some away; `expected` is what was acknowledged. */
async function retain(port: number, round: number, expected: Record<string, string>): Promise<void> {
  const acknowledged = new Set<number>();
  const dialled = await dial(port, "keeper", (packet) => {
    if (packet.cmd === "puback" || packet.cmd === "pubcomp") acknowledged.add(packet.messageId ?? 0);
    if (packet.cmd === "pubrec") dialled?.line.send({ cmd: "pubrel", messageId: packet.messageId ?? 0 });
  });
  if (dialled === undefined) throw new Error("the gateway is not there");
  const changes: [string, string, 1 | 2][] = [
    [`of-${round}`, `at ${round}`, 1],
    [`of-${round - 1}`, round % 2 === 0 ? "" : "changed", 2],
    ["always", `${round}`, 2],
  ];
  changes.forEach(([name, payload, qos], i) => {
    dialled.line.send({
      cmd: "publish",
      topic: `retained/${name}`,
      payload: Buffer.from(payload),
      qos,
      dup: false,
      retain: true,
      messageId: round * 3 + i + 1,
    });
    if (payload === "") delete expected[`retained/${name}`];
    else expected[`retained/${name}`] = payload;
  });
  await until(() => acknowledged.size === changes.length);
  dialled.line.close();
}

test(
  "sessions, queues and retained messages survive SIGTERM and SIGKILL under load: QoS 1 arrives, QoS 2 once",
  { timeout: 120_000 },
  async () => {
    gateway = await startBuiltGateway({ folder, env: { TMPDIR: folder } });
    const port = Number(new URL(gateway.mqttUrl).port);
    const env = {
      TMPDIR: folder,
      LAMBDAIOT_SERVER_PORT: new URL(gateway.url).port,
      LAMBDAIOT_MQTT_PORT: String(port),
      LAMBDAIOT_MQTT_MAX_QUEUED_MESSAGES: "60000",
    };
    await gateway.stop();
    gateway = await startBuiltGateway({ folder, env });
    const subscriber = startSubscriber(port);
    await until(subscriber.isSubscribed);
    const senders = Array.from({ length: publishers }, (_, index) => startPublisher(index, port));
    const acknowledgedNow = () => senders.reduce((sum, { acknowledged: a }) => sum + a[1].size + a[2].size, 0);
    const retained: Record<string, string> = {};
    const wrong: unknown[] = [];
    for (let kill = 1; kill <= kills; kill++) {
      const before = acknowledgedNow();
      await retain(port, kill, retained);
      await sleep(20 + random() * 500);
      await until(() => acknowledgedNow() > before);
      const signal = kill % 4 === 0 ? "SIGTERM" : "SIGKILL";
      const ended = await gateway.stop(signal);
      if (signal === "SIGTERM" && ended !== 0) wrong.push({ kill, ended });
      gateway = await startBuiltGateway({ folder, env });
      expect({ seed, kill, retained: await readRetained(port, retained) }).toEqual({ seed, kill, retained });
    }
    await Promise.all(senders.map((sender) => sender.stop()));
    const qos1 = senders.flatMap(({ acknowledged }) => [...acknowledged[1]]);
    const qos2 = senders.flatMap(({ acknowledged }) => [...acknowledged[2]]);
    const isThere = (): boolean =>
      qos1.every((text) => (subscriber.received[`1 ${text}`] ?? 0) > 0) &&
      qos2.every((text) => (subscriber.received[`2 ${text}`] ?? 0) > 0);
    await until(isThere, 10_000).catch(() => undefined);
    await sleep(100); // what would come twice
    const stopped = subscriber.stop();
    await gateway.stop("SIGKILL");
    await stopped;
    expect({
      seed,
      wrong,
      lost1: qos1.filter((text) => subscriber.received[`1 ${text}`] === undefined),
      lost2: qos2.filter((text) => subscriber.received[`2 ${text}`] === undefined),
      twice2: Object.entries(subscriber.received).filter(([text, times]) => text.startsWith("2") && times > 1),
      sessionsLost: subscriber.sessions.filter((isPresent) => !isPresent).length,
    }).toEqual({ seed, wrong: [], lost1: [], lost2: [], twice2: [], sessionsLost: 0 });
    expect(qos1.length + qos2.length).toBe(senders.reduce((sum, sender) => sum + sender.count(), 0));
    console.log(
      `seed ${seed}: ${kills} ends of the gateway; ${qos1.length} QoS 1 and ${qos2.length} QoS 2 messages acknowledged, ` +
        `${subscriber.sessions.length} times back: none lost, no QoS 2 message twice`,
    );
  },
);

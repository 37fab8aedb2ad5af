// What stands in for the gate, the topic rules, logins and the persistence in a gateway without them: connections as they
// come, everybody may do everything, and sessions live in memory. `cost.ts` builds such a gateway from the same sources.
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { createRequire } from "node:module";
import { anyone } from "../../src/core/identities.ts";
import type { Acl } from "../../src/mqtt/acl.ts";
import type { Gate } from "../../src/mqtt/gate.ts";
import type { LogIn } from "../../src/mqtt/login.ts";

/** Its types say that it is something else. */
const memory = createRequire(import.meta.url)("aedes-persistence") as () => object;

/** From Node 26 on `read()` gives one chunk, and Aedes takes it for all there is. */
function readAll<T extends Duplex>(stream: T): T {
  const read = stream.read.bind(stream);
  stream.read = (size?: number): unknown => read(size ?? (stream.readableLength || undefined));
  return stream;
}

/** Nobody counts. */
const traffic: Gate["traffic"] = {
  sockets: 0,
  connects: 0,
  packetsReceived: 0,
  packetsSent: 0,
  publishesReceived: 0,
  publishesSent: 0,
  payloadBytesReceived: 0,
  payloadBytesSent: 0,
  bytesReceived: 0,
  bytesSent: 0,
};

export const createGate = (): Gate => ({
  traffic,
  admitSocket: (socket: Socket) => readAll(socket.setNoDelay(true)),
  reserve: () => true,
  admitSecured: (socket) => readAll(socket),
  admitStream: (stream) => readAll(stream),
  pace: () => undefined,
  gather: () => undefined,
});

export const createAcl = (): Acl => ({ canPublish: () => true, canSubscribe: () => true });

export const createLogin = (): LogIn => () => Promise.resolve(anyone);

/** What somebody waits for an answer of. */
const answers: Record<string | symbol, (() => unknown) | undefined> = {
  keepSession: () => true,
  firstFreeMessageId: () => 1,
  stats: () => ({ sessions: 0, subscriptions: 0, queued: 0, queuedBytes: 0, retained: 0, retainedBytes: 0 }),
};

/** Aedes' own; of what the gateway's has besides, nothing is there to be done. */
export const createPersistence = (): object =>
  new Proxy(memory(), {
    get(target, name) {
      const value = Reflect.get(target, name) as unknown;
      if (typeof value === "function") return value.bind(target) as unknown;
      if (name in target) return value;
      return answers[name] ?? (() => undefined);
    },
  });

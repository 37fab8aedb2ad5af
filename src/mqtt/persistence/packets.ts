import type { Client } from "aedes";

// Packets as Aedes hands them over and takes them back.

export type ClientId = Pick<Client, "id">;

/** PUBLISH, or PUBREL for one that was confirmed. */
export interface StoredPacket {
  cmd: "publish" | "pubrel";
  brokerId: string;
  brokerCounter: number;
  topic: string;
  /** A string where the gateway itself says something. */
  payload: string | Buffer;
  qos: 0 | 1 | 2;
  retain: boolean;
  dup: boolean;
  messageId: number | undefined;
}

/** What Aedes passes may lack what it has no use for. */
export type GivenPacket = Pick<StoredPacket, "brokerId" | "brokerCounter"> & Partial<StoredPacket>;

/** By whom messages of an earlier start are known: their numbers are rows, so no new message can be taken for one. */
export const storedBroker = "stored";

export const copyPacket = ({
  cmd = "publish",
  brokerId,
  brokerCounter,
  topic = "",
  payload = "",
  qos = 0,
  retain = false,
  dup = false,
}: GivenPacket): StoredPacket => ({
  cmd,
  brokerId,
  brokerCounter,
  topic,
  payload,
  qos,
  retain,
  dup,
  messageId: undefined,
});

export const keyOf = ({ brokerId, brokerCounter }: Pick<StoredPacket, "brokerId" | "brokerCounter">): string =>
  `${brokerId}:${brokerCounter}`;

export const sizeOf = ({ topic = "", payload = "" }: Partial<Pick<StoredPacket, "topic" | "payload">>): number =>
  Buffer.byteLength(topic) + payload.length;

export const toQos = (qos: number): 0 | 1 | 2 => (qos === 0 || qos === 1 ? qos : 2);

export const toBuffer = (payload: string | Buffer): Buffer =>
  typeof payload === "string" ? Buffer.from(payload) : payload;

/** What has come from the network is a piece of something larger, which would be kept with it. */
export const copyPayload = (payload: string | Buffer = ""): string | Buffer =>
  typeof payload === "string" ? payload : Buffer.from(payload);

/**
 * Calls back at once. A promise, even one that is resolved, lets messages of other publishers overtake, and Aedes drops
 * what was overtaken: it takes it for a repetition.
 */
export const atOnce = <T>(value: T): Promise<T> =>
  // oxlint-disable-next-line unicorn/no-thenable
  ({ then: (resolve: (value: T) => unknown) => resolve(value) }) as unknown as Promise<T>;

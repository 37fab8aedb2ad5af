import type { AedesPublishPacket, Client, PublishPacket } from "aedes";
import type { Acl, Speaker } from "./acl.ts";
import type { InboundPublish, Ingest } from "./ingest.ts";
import type { Persistence } from "./persistence.ts";
import { isOwnTopic } from "./sys.ts";
import type { TargetOf } from "./targets.ts";

// A message's way from its sender to those who may hear it, and when it is acknowledged.

export interface ForwardingOptions {
  ingest: Ingest;
  acl: Acl;
  persistence: Persistence;
  targetOf: TargetOf;
  speakerOf: (client: Client | null) => Speaker;
  /** Counts what a client may not say. */
  reject: (speaker: Speaker, topic: string) => void;
  topic: string;
}

export interface Forwarding {
  /** Calls back once a message may be acknowledged; with an error, it is not, and its connection ends. */
  authorizePublish(client: Client | null, packet: PublishPacket, done: (error?: Error | null) => void): void;
  /** Whether a message is for this client. */
  mayReceive(client: Client, packet: AedesPublishPacket): boolean;
  /** The client id under which a device spoke last. */
  clientIdOf(deviceId: string): string | undefined;
}

/** A message that has not been acknowledged yet. */
interface Turn {
  client: Client;
  /** Those of its connection, in order of arrival. */
  turns: Turn[];
  packet: PublishPacket;
  done: (error?: Error | null) => void;
  /** `undefined` until it may be acknowledged, or is refused with an error. */
  outcome: Error | null | undefined;
}

/** Nobody listens there. */
const withheldTopic = "$SYS/withheld";

export function createForwarding(options: ForwardingOptions): Forwarding {
  const { ingest, acl, persistence, speakerOf, reject, topic } = options;
  /** Messages that are acknowledged and go nowhere, by their payload, which Aedes hands on as it is. */
  const withheld = new WeakSet<object>();
  /** Messages that wait for their commit, or for one before them, in order of arrival, by connection. */
  const held = new WeakMap<Client, Turn[]>();
  /** The connection over which each device spoke last, by client id. As many as there are devices. */
  const speakers = new Map<string, string>();

  /** Lets a message be acknowledged and go nowhere. */
  function withhold(packet: PublishPacket): void {
    const payload = Buffer.alloc(0);
    packet.payload = payload;
    packet.retain = false;
    packet.topic = withheldTopic; // Aedes itself listens on some that begin with $SYS
    withheld.add(payload);
    persistence.refuse(payload);
  }

  function turnsOf(client: Client): Turn[] {
    let turns = held.get(client);
    if (turns === undefined) held.set(client, (turns = []));
    return turns;
  }

  /** What a message owes to others is stored before it is acknowledged. */
  function accept(turn: Turn): void {
    const owed = persistence.accept(turn.packet);
    if (owed === undefined) settle(turn, null);
    // Where it was not stored there is no PUBACK, and the connection closes: the device keeps the message and sends it again.
    else
      owed.then(
        () => settle(turn, null),
        (error: Error) => settle(turn, error),
      );
  }

  /** Acknowledgements go out in the order of arrival, also within one commit and of what need not wait [MQTT-4.6.0-2]. */
  function settle(turn: Turn, outcome: Error | null): void {
    turn.outcome = outcome;
    const { client, turns } = turn;
    for (let first = turns[0]; first?.outcome !== undefined; first = turns[0]) {
      turns.shift();
      // Aedes drops what it cannot acknowledge any more.
      if (first.outcome !== null || (!client.connected && !client.connecting)) persistence.takeBack(first.packet);
      first.done(first.outcome);
    }
  }

  return {
    authorizePublish(client, packet, done) {
      // A will, sent for a client that is gone. It says that the device left; what else it says is not stored. It was
      // looked at when the client came.
      const isWill = client === null || client.closed;
      const speaker = speakerOf(client);
      const isAllowed = client === null || acl.canPublish(speaker, packet.topic);
      if (!isAllowed) {
        reject(speaker, packet.topic);
        withhold(packet);
      }
      if (isWill) return done(null);
      const turns = turnsOf(client);
      const turn: Turn = { client, turns, packet, done, outcome: undefined };
      turns.push(turn);
      try {
        const isIngested =
          isAllowed &&
          ingest(speaker, packet as InboundPublish, (error, deviceId) => {
            if (error !== null) return settle(turn, error);
            if (deviceId === false) withhold(packet);
            else if (deviceId !== undefined) speakers.set(deviceId, client.id);
            // Only now is it known whether it is to go any further.
            return accept(turn);
          });
        if (!isIngested) {
          if (isAllowed) accept(turn);
          else settle(turn, null);
        }
      } catch (error) {
        // Whoever called answers this one; it must not hold up those behind it.
        turns.splice(turns.indexOf(turn), 1);
        throw error;
      }
    },

    mayReceive(client, packet) {
      const payload = packet.payload as Buffer;
      if (withheld.has(payload)) return false;
      const speaker = speakerOf(client);
      // What Aedes says to itself on topics of this kind is for nobody.
      if (packet.topic.startsWith("$")) return isOwnTopic(packet.topic) && acl.canSubscribe(speaker, packet.topic);
      const { identity } = speaker;
      if (identity.kind !== "device" || packet.topic !== topic) return true;
      // On the topic that everybody shares, a device hears what is meant for it.
      return options.targetOf(payload) === identity.id;
    },

    clientIdOf: (deviceId) => speakers.get(deviceId),
  };
}

import { Readable } from "node:stream";
import { isDeepStrictEqual } from "node:util";
import type { Subscription } from "aedes";
import QlobberSub from "qlobber/aedes/qlobber-sub.js";
import {
  deleteSession,
  deleteSubscriptions,
  putSession,
  putSubscriptions,
  type StoredSession,
  type StoredSubscription,
} from "../../core/sessions.ts";
import type { Counters } from "../../counters.ts";
import { atOnce, type ClientId } from "./packets.ts";
import { topicWildcards } from "./topics.ts";
import type { Writes } from "./writes.ts";

// Who has a session, whose it is, for how long, and what it has subscribed to.

export interface SessionOptions {
  counters: Counters;
  writes: Writes;
  now: () => number;
  maxSessions: number;
  /** A session whose client stays away longer is over. */
  sessionExpiryMs: number;
  /** What else is a session's goes with its subscriptions; with the session itself, all. */
  onForget: (clientId: string, what: "queue" | "all") => void;
}

type SubscriptionRecord = Pick<Subscription, "qos" | "rh" | "rap" | "nl"> & { subscriptionIdentifier?: number };

/** A subscription of QoS 1 or 2 that a topic matches. */
export interface Match {
  clientId: string;
  topic: string;
  qos: 1 | 2;
}

export function createSessions({ counters, writes, now, maxSessions, sessionExpiryMs, onForget }: SessionOptions) {
  /** By client id, and filter. */
  const subscribed = new Map<string, Map<string, SubscriptionRecord>>();
  /** Whose each stored session is. */
  const owners = new Map<string, { owner: string; seenAt: number }>();
  const trie = new QlobberSub(topicWildcards);
  let isGranted: (client: ClientId, topic: string) => boolean = () => true;

  const match = (topic: string): Match[] => trie.match(topic) as Match[];

  function open(clientId: string): Map<string, SubscriptionRecord> {
    let subscriptions = subscribed.get(clientId);
    if (subscriptions === undefined) subscribed.set(clientId, (subscriptions = new Map()));
    return subscriptions;
  }

  function subscribe(clientId: string, topic: string, record: SubscriptionRecord): void {
    const subscriptions = open(clientId);
    const before = subscriptions.get(topic);
    if (record.qos > 0) trie.add(topic, { clientId, topic, ...record });
    else if (before !== undefined && before.qos > 0) trie.remove(topic, { clientId, topic });
    subscriptions.set(topic, record);
  }

  function forget(clientId: string): void {
    for (const [topic, { qos }] of subscribed.get(clientId) ?? []) if (qos > 0) trie.remove(topic, { clientId, topic });
    subscribed.delete(clientId);
  }

  function touch(clientId: string, owner: string): void {
    const session = { clientId, owner, seenAt: now() };
    owners.set(clientId, session);
    writes.behind((ctx) => putSession(ctx, session));
  }

  function endSession(clientId: string): void {
    owners.delete(clientId);
    forget(clientId);
    onForget(clientId, "all");
    writes.behind((ctx) => deleteSession(ctx, clientId));
  }

  return {
    match,

    load(sessions: readonly StoredSession[], subscriptions: readonly StoredSubscription[]): void {
      for (const { clientId, owner, seenAt } of sessions) owners.set(clientId, { owner, seenAt });
      for (const { clientId, topic, qos } of subscriptions) subscribe(clientId, topic, { qos: qos as 0 | 1 | 2 });
    },

    api: {
      /** Whose the stored session of a client id is. */
      ownerOf: (clientId: string): string | undefined => owners.get(clientId)?.owner,

      /** A client is here with a session to keep. @returns false where there is no room for another */
      keepSession(clientId: string, owner: string): boolean {
        if (!owners.has(clientId) && owners.size >= maxSessions) {
          counters.increment("mqtt.sessions_refused");
          return false;
        }
        touch(clientId, owner);
        return true;
      },

      /** A client has left: its session is kept from now on so long, unless it has ended. */
      leaveSession(clientId: string, owner: string): void {
        if (owners.get(clientId)?.owner === owner) touch(clientId, owner);
      },

      /** Ends a session with all that belongs to it. */
      endSession,

      /** How it is told whether a subscription was granted. */
      filterSubscriptions(granted: typeof isGranted): void {
        isGranted = granted;
      },

      /** Ends sessions whose clients, none of them in `connected`, have stayed away too long. */
      expire(isConnected: (clientId: string) => boolean): void {
        const before = now() - sessionExpiryMs;
        for (const [clientId, { owner, seenAt }] of owners) {
          if (isConnected(clientId)) {
            // Now and then, so that a crash does not end the sessions of those who had been here for long.
            if (seenAt < now() - sessionExpiryMs / 8) touch(clientId, owner);
          } else if (seenAt < before) {
            counters.increment("mqtt.sessions_expired");
            endSession(clientId);
          }
        }
      },

      /** SUBACK waits for this. */
      async addSubscriptions(client: ClientId, subscriptions: Subscription[]) {
        // Aedes passes the whole SUBSCRIBE where one of its topics was allowed; those that were not must not deliver later.
        const allowed = subscriptions.filter(({ topic }) => isGranted(client, topic));
        const before = open(client.id);
        const changed: Subscription[] = [];
        for (const { topic, ...record } of allowed) {
          // It passes it once for each of them, too.
          if (isDeepStrictEqual(before.get(topic), pickRecord(record))) continue;
          subscribe(client.id, topic, pickRecord(record));
          changed.push({ topic, ...record });
        }
        await writes.commit((ctx) => putSubscriptions(ctx, client.id, changed));
      },

      async removeSubscriptions(client: ClientId, topics: string[]) {
        const subscriptions = subscribed.get(client.id);
        for (const topic of topics) {
          const record = subscriptions?.get(topic);
          if (record === undefined) continue;
          if (record.qos > 0) trie.remove(topic, { clientId: client.id, topic });
          subscriptions?.delete(topic);
        }
        await writes.commit((ctx) => deleteSubscriptions(ctx, client.id, topics));
      },

      async subscriptionsByClient(client: ClientId) {
        return [...(subscribed.get(client.id) ?? [])].map(([topic, record]) => ({ topic, ...record }));
      },

      subscriptionsByTopic: (topic: string) => atOnce(match(topic) as Subscription[]),

      async countOffline() {
        let clientsCount = 0;
        for (const { size } of subscribed.values()) if (size > 0) clientsCount += 1;
        return { subsCount: trie.subscriptionsCount, clientsCount };
      },

      /** A clean session begins: nothing of an earlier one is left, the queue neither [MQTT-3.1.2-6]. */
      async cleanSubscriptions(client: ClientId) {
        if (!subscribed.has(client.id) && !owners.has(client.id)) return;
        owners.delete(client.id);
        forget(client.id);
        onForget(client.id, "queue");
        await writes.commit((ctx) => deleteSession(ctx, client.id));
      },

      getClientList: (topic: string) =>
        Readable.from([...subscribed].filter(([, subscriptions]) => subscriptions.has(topic)).map(([id]) => id)),
    },
  };
}

const pickRecord = ({ qos, rh, rap, nl, subscriptionIdentifier }: SubscriptionRecord): SubscriptionRecord =>
  ({ qos, rh, rap, nl, ...(subscriptionIdentifier !== undefined && { subscriptionIdentifier }) }) as SubscriptionRecord;

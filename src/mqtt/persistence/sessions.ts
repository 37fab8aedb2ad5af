import { Readable } from "node:stream";
import { isDeepStrictEqual } from "node:util";
import type { Subscription } from "aedes";
import QlobberSub from "qlobber/aedes/qlobber-sub.js";
import {
  deleteQueue,
  deleteSession,
  deleteSubscriptions,
  isSessionOf,
  putSession,
  putSubscriptions,
  type StoredSession,
  type StoredSubscription,
} from "../../core/sessions.ts";
import type { Counters } from "../../counters.ts";
import { topicWildcards } from "../topics.ts";
import { atOnce, toQos, type ClientId } from "./packets.ts";
import type { Writes } from "./writes.ts";

// Who has a session, whose it is, for how long, and what it has subscribed to. What a client is told of, CONNACK's session
// and SUBACK, is in the store first and in memory then: where the store does not take it, neither knows of it.

export interface SessionOptions {
  counters: Counters;
  writes: Writes;
  now: () => number;
  maxSessions: number;
  /** A session whose client stays away longer is over. */
  sessionExpiryMs: number;
  /** What else is a session's goes with it. */
  onForget: (clientId: string) => void;
}

type SubscriptionRecord = Pick<Subscription, "qos"> &
  Partial<Pick<Subscription, "rh" | "rap" | "nl">> & { subscriptionIdentifier?: number };

interface Subscriptions {
  /** By filter. */
  granted: Map<string, SubscriptionRecord>;
  /** Those on their way into the store. */
  pending: Map<string, { record: SubscriptionRecord; stored: Promise<void> }>;
}

interface Owned {
  owner: string;
  /** When its client was here last, epoch milliseconds. */
  seenAt: number;
}

/** A subscription of QoS 1 or 2 that a topic matches. */
export interface Match {
  clientId: string;
  topic: string;
  qos: 1 | 2;
}

const maxMatched = 1_000;

export function createSessions({ counters, writes, now, maxSessions, sessionExpiryMs, onForget }: SessionOptions) {
  /** By client id. */
  const subscribed = new Map<string, Subscriptions>();
  /** Whose each stored session is. */
  const owners = new Map<string, Owned>();
  /** Sessions that are about to be over, since a clean one begins. */
  const ending = new Map<string, Promise<void>>();
  const trie = new QlobberSub(topicWildcards);
  let isGranted: (client: ClientId, topic: string) => boolean = () => true;

  /** What topics have matched since subscriptions changed last: readings all come on the same one. */
  const matched = new Map<string, readonly Match[]>();

  function match(topic: string): readonly Match[] {
    let matches = matched.get(topic);
    if (matches === undefined) {
      if (matched.size >= maxMatched) matched.clear();
      matched.set(topic, (matches = trie.match(topic) as Match[]));
    }
    return matches;
  }

  const ownerOf = (clientId: string): string | undefined => owners.get(clientId)?.owner;

  function open(clientId: string): Subscriptions {
    let subscriptions = subscribed.get(clientId);
    if (subscriptions === undefined)
      subscribed.set(clientId, (subscriptions = { granted: new Map(), pending: new Map() }));
    return subscriptions;
  }

  function subscribe(clientId: string, { granted }: Subscriptions, topic: string, record: SubscriptionRecord): void {
    const before = granted.get(topic);
    matched.clear();
    if (record.qos > 0) trie.add(topic, { clientId, topic, ...record });
    else if (before !== undefined && before.qos > 0) trie.remove(topic, { clientId, topic });
    granted.set(topic, record);
  }

  function unsubscribe(clientId: string, { granted }: Subscriptions, topic: string): void {
    matched.clear();
    if ((granted.get(topic)?.qos ?? 0) > 0) trie.remove(topic, { clientId, topic });
    granted.delete(topic);
  }

  /** Takes what a session has out of memory. */
  function forget(clientId: string): void {
    const subscriptions = subscribed.get(clientId);
    for (const topic of subscriptions?.granted.keys() ?? [])
      unsubscribe(clientId, subscriptions as Subscriptions, topic);
    subscribed.delete(clientId);
    onForget(clientId);
  }

  /** The same, once it is gone from the store; what came to its queue in between goes too. */
  function forgetStored(clientId: string): void {
    forget(clientId);
    writes.behind((ctx) => deleteQueue(ctx, clientId));
  }

  function touch(clientId: string, owner: string): void {
    const session = { clientId, owner, seenAt: now() };
    owners.set(clientId, session);
    writes.behind((ctx) => putSession(ctx, session));
  }

  function endSession(clientId: string): void {
    owners.delete(clientId);
    forget(clientId);
    writes.behind((ctx) => deleteSession(ctx, clientId));
  }

  /** Settles when a new session is durable, and nothing is left of an earlier one of somebody else's. */
  async function claim(clientId: string, owner: string, before: Owned | undefined): Promise<void> {
    const session = { owner, seenAt: now() };
    // At once: whoever comes meanwhile is to see whose it is.
    owners.set(clientId, session);
    try {
      await writes.commit((ctx) => {
        if (before !== undefined) deleteSession(ctx, clientId);
        putSession(ctx, { clientId, ...session });
      });
    } catch (error) {
      if (owners.get(clientId) !== session) throw error;
      if (before === undefined) owners.delete(clientId);
      else owners.set(clientId, before);
      throw error;
    }
    if (before !== undefined) forgetStored(clientId);
  }

  return {
    match,
    ownerOf,

    stats() {
      let subscriptions = 0;
      for (const { granted } of subscribed.values()) subscriptions += granted.size;
      return { sessions: owners.size, subscriptions };
    },

    /** Sessions beyond the limit, those seen longest ago, are over; so is what belongs to none. */
    load(sessions: readonly StoredSession[], subscriptions: readonly StoredSubscription[]): void {
      const over = new Set<string>();
      for (const { clientId, owner, seenAt } of sessions) {
        if (owners.size < maxSessions) owners.set(clientId, { owner, seenAt });
        else over.add(clientId);
      }
      if (over.size > 0) counters.increment("mqtt.sessions_dropped", over.size);
      for (const { clientId, topic, qos } of subscriptions) {
        if (owners.has(clientId)) subscribe(clientId, open(clientId), topic, pickRecord({ qos: toQos(qos) }));
        else over.add(clientId);
      }
      for (const clientId of over) writes.behind((ctx) => deleteSession(ctx, clientId));
    },

    api: {
      /** Whose the stored session of a client id is. */
      ownerOf,

      /**
       * A client is here with a session to keep. Settles when it is durable that there is one.
       * @returns false where there is no room for another
       */
      async keepSession(clientId: string, owner: string): Promise<boolean> {
        const before = owners.get(clientId);
        if (before?.owner === owner) touch(clientId, owner);
        else if (before === undefined && owners.size >= maxSessions) {
          counters.increment("mqtt.sessions_refused");
          return false;
        } else await claim(clientId, owner, before);
        return true;
      },

      /** A client has left: its session is kept from now on so long, unless it has ended. */
      leaveSession(clientId: string, owner: string): void {
        if (ownerOf(clientId) === owner) touch(clientId, owner);
      },

      /** Ends all sessions of an owner, with what belongs to them. */
      endSessionsOf(owner: string): void {
        for (const [clientId, session] of owners) if (session.owner === owner) endSession(clientId);
      },

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

      /** SUBACK waits for this. @throws where the session has ended meanwhile */
      async addSubscriptions(client: ClientId, subscriptions: Subscription[]) {
        // Aedes passes the whole SUBSCRIBE where one of its topics was allowed; those that were not must not deliver later.
        const allowed = subscriptions.filter(({ topic }) => isGranted(client, topic));
        const session = open(client.id);
        const owner = ownerOf(client.id);
        const waiting: Promise<void>[] = [];
        const changed = new Map<string, SubscriptionRecord>();
        for (const { topic, ...given } of allowed) {
          // It passes it once for each of them, too.
          const record = pickRecord(given);
          const pending = session.pending.get(topic);
          if (isDeepStrictEqual(pending?.record ?? session.granted.get(topic), record)) {
            if (pending !== undefined) waiting.push(pending.stored);
          } else changed.set(topic, record);
        }
        if (changed.size > 0) waiting.push(storeSubscriptions(client.id, session, owner, changed));
        await Promise.all(waiting);
      },

      async removeSubscriptions(client: ClientId, topics: string[]) {
        const session = subscribed.get(client.id);
        await writes.commit((ctx) => deleteSubscriptions(ctx, client.id, topics));
        if (session === undefined || subscribed.get(client.id) !== session) return;
        for (const topic of topics) unsubscribe(client.id, session, topic);
      },

      async subscriptionsByClient(client: ClientId) {
        await ending.get(client.id)?.catch(() => undefined);
        return [...(subscribed.get(client.id)?.granted ?? [])].map(([topic, record]) => ({ topic, ...record }));
      },

      subscriptionsByTopic: (topic: string) => atOnce(match(topic)),

      async countOffline() {
        let clientsCount = 0;
        for (const { granted } of subscribed.values()) if (granted.size > 0) clientsCount += 1;
        return { subsCount: trie.subscriptionsCount, clientsCount };
      },

      /** A clean session begins: nothing of an earlier one is left, the queue neither [MQTT-3.1.2-6]. */
      async cleanSubscriptions(client: ClientId) {
        const { id } = client;
        const before = owners.get(id);
        if (before === undefined && !subscribed.has(id)) return;
        const ended = writes
          .commit((ctx) => deleteSession(ctx, id))
          .then(() => {
            // Not where somebody has come meanwhile with a session to keep: it has been stored after this.
            if (owners.get(id) === before) owners.delete(id);
            return forgetStored(id);
          })
          .finally(() => ending.get(id) === ended && ending.delete(id));
        ending.set(id, ended);
        await ended;
      },

      getClientList: (topic: string) =>
        Readable.from([...subscribed].filter(([, { granted }]) => granted.has(topic)).map(([id]) => id)),
    },
  };

  function storeSubscriptions(
    clientId: string,
    session: Subscriptions,
    owner: string | undefined,
    changed: ReadonlyMap<string, SubscriptionRecord>,
  ): Promise<void> {
    const rows = [...changed].map(([topic, { qos }]) => ({ topic, qos }));
    const stored = writes
      .commit((ctx) => {
        if (owner !== undefined && !isSessionOf(ctx, clientId, owner)) throw new Error("the session has ended");
        putSubscriptions(ctx, clientId, rows);
      })
      .then(() => {
        if (subscribed.get(clientId) !== session) throw new Error("the session has ended");
        for (const [topic, record] of changed) subscribe(clientId, session, topic, record);
        return undefined;
      })
      .finally(() => {
        for (const topic of changed.keys())
          if (session.pending.get(topic)?.stored === stored) session.pending.delete(topic);
      });
    for (const [topic, record] of changed) session.pending.set(topic, { record, stored });
    return stored;
  }
}

const pickRecord = ({ qos, rh, rap, nl, subscriptionIdentifier }: SubscriptionRecord): SubscriptionRecord =>
  ({ qos, rh, rap, nl, ...(subscriptionIdentifier !== undefined && { subscriptionIdentifier }) }) as SubscriptionRecord;

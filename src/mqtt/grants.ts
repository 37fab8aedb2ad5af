import type { Client, Subscription } from "aedes";
import type { Counters } from "../counters.ts";
import type { Acl, Speaker } from "./acl.ts";
import { matchesTopic } from "./topics.ts";

export interface GrantOptions {
  acl: Acl;
  /** Subscriptions of one client. */
  maxSubscriptions: number;
  counters: Counters;
}

type Qos = 0 | 1 | 2;

/** The filters that each client was granted, and the QoS of each. */
export interface Grants {
  /** @returns whether the client may subscribe so; it counts as subscribed from then on */
  grant(client: Client, speaker: Speaker, subscription: Pick<Subscription, "topic" | "qos">): boolean;
  has(client: object, filter: string): boolean;
  /** A message's QoS, or the highest that the client was granted for its topic where that is lower [MQTT-3.3.5-1]. */
  capQos(client: object, topic: string, qos: Qos): Qos;
  /** The client has unsubscribed. */
  revoke(client: Client, filters: readonly string[]): void;
}

interface Granted {
  levels: string[];
  qos: Qos;
}

export function createGrants({ acl, maxSubscriptions, counters }: GrantOptions): Grants {
  const granted = new WeakMap<object, Map<string, Granted>>();
  return {
    grant(client, speaker, { topic, qos }) {
      let filters = granted.get(client);
      if (filters === undefined) granted.set(client, (filters = new Map()));
      if (!acl.canSubscribe(speaker, topic)) {
        counters.increment("mqtt.subscriptions_refused");
        return false;
      }
      // One that it has may be subscribed to again.
      if (filters.size >= maxSubscriptions && !filters.has(topic)) {
        counters.increment("mqtt.subscriptions_over_limit");
        return false;
      }
      filters.set(topic, { levels: topic.split("/"), qos });
      return true;
    },
    has: (client, filter) => granted.get(client)?.has(filter) === true,
    capQos(client, topic, qos) {
      const filters = granted.get(client);
      // The usual case, in which it does not matter which of them match.
      if (filters !== undefined && filters.size > 0 && isNoneBelow(filters, qos)) return qos;
      const levels = topic.split("/");
      let highest: Qos = 0;
      for (const filter of filters?.values() ?? [])
        if (filter.qos > highest && matchesTopic(filter.levels, levels)) highest = filter.qos;
      return highest < qos ? highest : qos;
    },
    revoke(client, filters) {
      for (const filter of filters) granted.get(client)?.delete(filter);
    },
  };
}

function isNoneBelow(filters: ReadonlyMap<string, Granted>, qos: Qos): boolean {
  for (const filter of filters.values()) if (filter.qos < qos) return false;
  return true;
}

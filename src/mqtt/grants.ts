import type { Client, Subscription } from "aedes";
import type { Acl, Speaker } from "./acl.ts";
import { matchesTopic } from "./topics.ts";

export interface GrantOptions {
  acl: Acl;
  /** Subscriptions of one client. */
  maxSubscriptions: number;
}

type Qos = 0 | 1 | 2;

/** The filters that each client was granted, and the QoS of each. */
export interface Grants {
  /** @returns whether the client may subscribe so; it counts as subscribed from then on */
  grant(client: Client, speaker: Speaker, subscription: Pick<Subscription, "topic" | "qos">): boolean;
  has(client: object, filter: string): boolean;
  /** The highest QoS that the client was granted for a topic [MQTT-3.3.5-1]; `undefined` where it is not subscribed. */
  qosFor(client: object, topic: string): Qos | undefined;
  /** The client has unsubscribed. */
  revoke(client: Client, filters: readonly string[]): void;
}

interface Granted {
  levels: string[];
  qos: Qos;
}

export function createGrants({ acl, maxSubscriptions }: GrantOptions): Grants {
  const granted = new WeakMap<object, Map<string, Granted>>();
  return {
    grant(client, speaker, { topic, qos }) {
      let filters = granted.get(client);
      if (filters === undefined) granted.set(client, (filters = new Map()));
      if (!acl.canSubscribe(speaker, topic)) return false;
      // One that it has may be subscribed to again.
      if (filters.size >= maxSubscriptions && !filters.has(topic)) return false;
      filters.set(topic, { levels: topic.split("/"), qos });
      return true;
    },
    has: (client, filter) => granted.get(client)?.has(filter) === true,
    qosFor(client, topic) {
      const levels = topic.split("/");
      let highest: Qos | undefined;
      for (const [, filter] of granted.get(client) ?? []) {
        if (filter.qos > (highest ?? -1) && matchesTopic(filter.levels, levels)) highest = filter.qos;
        if (highest === 2) break;
      }
      return highest;
    },
    revoke(client, filters) {
      for (const filter of filters) granted.get(client)?.delete(filter);
    },
  };
}

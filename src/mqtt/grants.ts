import type { Client } from "aedes";
import type { Acl, Speaker } from "./acl.ts";

export interface GrantOptions {
  acl: Acl;
  /** Subscriptions of one client. */
  maxSubscriptions: number;
}

/** The filters that each client was granted. */
export interface Grants {
  /** @returns whether the client may subscribe so; it counts as subscribed from then on */
  grant(client: Client, speaker: Speaker, filter: string): boolean;
  has(client: object, filter: string): boolean;
  /** The client has unsubscribed. */
  revoke(client: Client, filters: readonly string[]): void;
}

export function createGrants({ acl, maxSubscriptions }: GrantOptions): Grants {
  const granted = new WeakMap<object, Set<string>>();
  return {
    grant(client, speaker, filter) {
      let filters = granted.get(client);
      if (filters === undefined) granted.set(client, (filters = new Set()));
      if (!acl.canSubscribe(speaker, filter)) return false;
      // One that it has may be subscribed to again.
      if (filters.size >= maxSubscriptions && !filters.has(filter)) return false;
      filters.add(filter);
      return true;
    },
    has: (client, filter) => granted.get(client)?.has(filter) === true,
    revoke(client, filters) {
      for (const filter of filters) granted.get(client)?.delete(filter);
    },
  };
}

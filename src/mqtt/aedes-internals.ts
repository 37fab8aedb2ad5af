import type { Socket } from "node:net";
import type { Aedes, Client, PublishPacket } from "aedes";

// What Aedes has and does not declare in its types; nobody else looks inside it.

/** The connection that has a client id. */
export const findClient = (aedes: Aedes, clientId: string): Client | undefined =>
  (aedes as unknown as { clients: Record<string, Client> }).clients[clientId];

export const internalsOf = (client: Client) =>
  client as unknown as { connackSent: boolean; _nextId: number; _will: PublishPacket | null | undefined };

/** Where a connection comes from, as TCP knows it. */
export const addressOf = (client: Client): string =>
  client.req?.socket.remoteAddress ?? (client.conn as Socket).remoteAddress ?? "";

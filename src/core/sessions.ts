import { and, asc, desc, eq, inArray } from "drizzle-orm";
import { mqttIncoming, mqttQueued, mqttRetained, mqttSessions, mqttSubscriptions, mqttWills } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { prepareOnce } from "./prepared.ts";

// What the broker must not forget: sessions with their subscriptions and queues, retained messages, wills. The broker
// answers out of memory; everything here is written for the next start, and some of it before an acknowledgement.

export type StoredSession = typeof mqttSessions.$inferSelect;
export type StoredSubscription = typeof mqttSubscriptions.$inferSelect;
export type StoredMessage = typeof mqttQueued.$inferSelect;
export type StoredRetained = typeof mqttRetained.$inferSelect;
export type StoredWill = typeof mqttWills.$inferSelect;

export interface BrokerState {
  /** Those seen last first. */
  sessions: StoredSession[];
  subscriptions: StoredSubscription[];
  queued: StoredMessage[];
  incoming: (typeof mqttIncoming.$inferSelect)[];
  retained: StoredRetained[];
  wills: StoredWill[];
}

export const loadBrokerState = (ctx: Ctx): BrokerState => ({
  sessions: ctx.db.select().from(mqttSessions).orderBy(desc(mqttSessions.seenAt)).all(),
  subscriptions: ctx.db.select().from(mqttSubscriptions).all(),
  queued: ctx.db.select().from(mqttQueued).orderBy(asc(mqttQueued.pk)).all(),
  incoming: ctx.db.select().from(mqttIncoming).all(),
  retained: ctx.db.select().from(mqttRetained).all(),
  wills: ctx.db.select().from(mqttWills).all(),
});

export function putSession(ctx: Ctx, session: StoredSession): void {
  ctx.db
    .insert(mqttSessions)
    .values(session)
    .onConflictDoUpdate({ target: mqttSessions.clientId, set: { owner: session.owner, seenAt: session.seenAt } })
    .run();
}

/** Writes and takes back what changes nothing, to see whether the store takes writes. No client has an empty id. */
export function probeStore(ctx: Ctx): void {
  ctx.db.insert(mqttSessions).values({ clientId: "", owner: "", seenAt: 0 }).run();
  ctx.db.delete(mqttSessions).where(eq(mqttSessions.clientId, "")).run();
}

/** A session ends with all that belongs to it. */
export function deleteSession(ctx: Ctx, clientId: string): void {
  for (const table of [mqttSessions, mqttSubscriptions, mqttQueued, mqttIncoming]) {
    ctx.db.delete(table).where(eq(table.clientId, clientId)).run();
  }
}

/** By which the sessions of a device with a token of its own are known. */
export const deviceOwner = (deviceId: string): string => `device:${deviceId}`;

/**
 * Ends what a device has with its token: the sessions with what waits for them, and every connection. Whoever comes with
 * its client ids next, as a device without a token does, begins anew.
 */
export function endDeviceIdentity(ctx: Ctx, deviceId: string): void {
  const owned = ctx.db
    .select()
    .from(mqttSessions)
    .where(eq(mqttSessions.owner, deviceOwner(deviceId)))
    .all();
  for (const { clientId } of owned) deleteSession(ctx, clientId);
  ctx.emit("credentials.revoked", { kind: "device", id: deviceId, isGone: true });
}

/** Whether a session is there, and still the same one's. */
export const isSessionOf = (ctx: Ctx, clientId: string, owner: string): boolean =>
  ctx.db.select().from(mqttSessions).where(eq(mqttSessions.clientId, clientId)).get()?.owner === owner;

export function putSubscriptions(
  ctx: Ctx,
  clientId: string,
  subscriptions: readonly { topic: string; qos: number }[],
): void {
  for (const { topic, qos } of subscriptions) {
    ctx.db
      .insert(mqttSubscriptions)
      .values({ clientId, topic, qos })
      .onConflictDoUpdate({ target: [mqttSubscriptions.clientId, mqttSubscriptions.topic], set: { qos } })
      .run();
  }
}

export const deleteSubscriptions = (ctx: Ctx, clientId: string, topics: readonly string[]): void =>
  void ctx.db
    .delete(mqttSubscriptions)
    .where(and(eq(mqttSubscriptions.clientId, clientId), inArray(mqttSubscriptions.topic, [...topics])))
    .run();

export type NewMessage = Pick<StoredMessage, "topic" | "payload" | "qos" | "retain">;

const statements = prepareOnce(({ $client }) => ({
  enqueue: $client.prepare<[string, string, Buffer, number, number]>(
    "INSERT INTO mqtt_queued (client_id, cmd, topic, payload, qos, retain) VALUES (?, 'publish', ?, ?, ?, ?)",
  ),
  dequeue: $client.prepare<[pk: number]>("DELETE FROM mqtt_queued WHERE pk = ?"),
  setMessageId: $client.prepare<[messageId: number, pk: number]>("UPDATE mqtt_queued SET message_id = ? WHERE pk = ?"),
  setReleased: $client.prepare<[pk: number]>("UPDATE mqtt_queued SET cmd = 'pubrel', payload = x'' WHERE pk = ?"),
  putIncoming: $client.prepare<[string, number]>(
    "INSERT OR REPLACE INTO mqtt_incoming (client_id, message_id) VALUES (?, ?)",
  ),
  deleteIncoming: $client.prepare<[string, number]>("DELETE FROM mqtt_incoming WHERE client_id = ? AND message_id = ?"),
}));

/** @returns the row's number, by which the message is known from then on */
export const enqueueMessage = (ctx: Ctx, clientId: string, { topic, payload, qos, retain }: NewMessage): number =>
  Number(statements(ctx.db).enqueue.run(clientId, topic, payload, qos, Number(retain)).lastInsertRowid);

export const dequeueMessage = (ctx: Ctx, pk: number): void => void statements(ctx.db).dequeue.run(pk);

/** Takes away all that waits for a session. */
export const deleteQueue = (ctx: Ctx, clientId: string): void =>
  void ctx.db.delete(mqttQueued).where(eq(mqttQueued.clientId, clientId)).run();

export const setMessageId = (ctx: Ctx, pk: number, messageId: number): void =>
  void statements(ctx.db).setMessageId.run(messageId, pk);

/** The receiver has the message (PUBREC): what is left to say is PUBREL. */
export const setReleased = (ctx: Ctx, pk: number): void => void statements(ctx.db).setReleased.run(pk);

export const putIncoming = (ctx: Ctx, clientId: string, messageId: number): void =>
  void statements(ctx.db).putIncoming.run(clientId, messageId);

export const deleteIncoming = (ctx: Ctx, clientId: string, messageId: number): void =>
  void statements(ctx.db).deleteIncoming.run(clientId, messageId);

export const clearIncoming = (ctx: Ctx, clientId: string): void =>
  void ctx.db.delete(mqttIncoming).where(eq(mqttIncoming.clientId, clientId)).run();

/** An empty payload takes the retained message away [MQTT-3.3.1-10]. */
export function putRetained(ctx: Ctx, { topic, payload, qos }: StoredRetained): void {
  if (payload.length === 0) ctx.db.delete(mqttRetained).where(eq(mqttRetained.topic, topic)).run();
  else {
    ctx.db
      .insert(mqttRetained)
      .values({ topic, payload, qos })
      .onConflictDoUpdate({ target: mqttRetained.topic, set: { payload, qos } })
      .run();
  }
}

export function putWill(ctx: Ctx, will: StoredWill): void {
  const { clientId: _, ...set } = will;
  ctx.db.insert(mqttWills).values(will).onConflictDoUpdate({ target: mqttWills.clientId, set }).run();
}

export const deleteWill = (ctx: Ctx, clientId: string): void =>
  void ctx.db.delete(mqttWills).where(eq(mqttWills.clientId, clientId)).run();

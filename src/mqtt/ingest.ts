import type { Domain } from "../core/ctx.ts";
import { recordCheckResponse } from "../core/devices.ts";
import { announceDevice } from "../core/discovery.ts";
import { maySpeakFor } from "../core/identities.ts";
import { createIntake, fingerprintMessage, sumClientId, type Outcome } from "../core/intake.ts";
import { maxAheadMs } from "../core/time.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import type { Speaker } from "./acl.ts";
import { createTargets, mayCommand } from "./targets.ts";
import { parseAnnouncement, parseMessage, type Message, type RejectReason } from "./messages.ts";

/** What of a PUBLISH packet the ingest needs. */
export interface InboundPublish {
  topic: string;
  payload: Uint8Array;
  qos: 0 | 1 | 2;
  dup: boolean;
  messageId: number | undefined;
}

export interface IngestOptions {
  domain: Domain;
  log: Log;
  counters: Counters;
  now: () => number;
  topic: string;
  maxPayloadBytes: number;
  maxDevices: number;
  resendWindow: number;
}

/**
 * The UUID of the device that has spoken, where it is known. `false`: it was not the speaker's to say, and nobody else is
 * to hear it either.
 */
export type Spoken = string | undefined | false;

/**
 * Takes what a client has published, before it is acknowledged.
 * @returns false where there is nothing to wait for. Otherwise `done` is called when the message is durable, and with an
 * error only where the store did not take it: a bad message is counted and acknowledged, or its device would send it for ever.
 */
export type Ingest = (
  speaker: Speaker,
  packet: InboundPublish,
  done: (error: Error | null, spoken: Spoken) => void,
) => boolean;

type Done = Parameters<Ingest>[2];

const device = { kind: "device" } as const;

export function createIngest({
  domain,
  log,
  counters,
  now,
  topic,
  maxPayloadBytes,
  maxDevices,
  resendWindow,
}: IngestOptions): Ingest {
  const discoveryTopic = `${topic}/discovery`;
  const intake = createIntake(domain, resendWindow);
  /** By connection: what is the same for all its messages. */
  const clientSums = new WeakMap<Speaker, number>();
  const targetOf = createTargets(domain);

  function reject(reason: RejectReason, clientId: string, detail?: string): void {
    counters.increment(`mqtt.rejected.${reason}`);
    log.sampled(`mqtt.rejected.${reason}`, "message rejected", { reason, detail, client: clientId });
  }

  function takeReading(
    { sensorId, value, valueAt: givenAt }: Extract<Message, { kind: "reading" }>,
    speaker: Speaker,
    packet: InboundPublish,
    done: Done,
  ): void {
    const { identity, clientId } = speaker;
    const isAhead = givenAt !== undefined && givenAt > now() + maxAheadMs;
    if (isAhead) counters.increment("mqtt.clock_ahead");
    const valueAt = isAhead ? undefined : givenAt;
    const fingerprint =
      valueAt !== undefined || packet.qos === 0 || packet.messageId === undefined
        ? 0
        : fingerprintMessage(clientSumOf(speaker), packet.messageId, packet.payload);
    const submission = { sensorId, value, valueAt, speaker: identity, fingerprint, isMarkedDup: packet.dup };
    intake.submit(submission, (error, outcome) => {
      if (error === undefined) done(null, noteOutcome(outcome as Outcome, sensorId, clientId));
      else done(error as Error, undefined);
    });
  }

  function clientSumOf(speaker: Speaker): number {
    let sum = clientSums.get(speaker);
    if (sum === undefined) clientSums.set(speaker, (sum = sumClientId(speaker.clientId)));
    return sum;
  }

  function noteOutcome(outcome: Outcome, sensorId: string, clientId: string): Spoken {
    if (typeof outcome === "object") {
      counters.increment(outcome.isResend ? "mqtt.resends" : "mqtt.readings");
      return outcome.deviceId;
    }
    reject(outcome === "unknown" ? "unknown_sensor" : outcome, clientId, sensorId);
    return outcome === "unknown" ? undefined : false;
  }

  async function takeResponse(
    { deviceId, status }: Extract<Message, { kind: "check-response" }>,
    { identity, clientId }: Speaker,
  ): Promise<Spoken> {
    const outcome = await domain.commit(device, (ctx) =>
      recordCheckResponse(ctx, deviceId, status, (of) => maySpeakFor(identity, of)),
    );
    if (outcome === "recorded") return deviceId;
    reject(outcome === "unknown" ? "unknown_device" : "forbidden", clientId, deviceId);
    return outcome === "forbidden" ? false : undefined;
  }

  async function takeAnnouncement(
    { announcement }: Extract<Message, { kind: "announcement" }>,
    { identity, clientId }: Speaker,
  ): Promise<Spoken> {
    const { foreign, refusal } = await domain.commit(device, (ctx) =>
      announceDevice(ctx, announcement, { maxDevices, speaker: identity }),
    );
    if (refusal !== undefined) reject(refusal, clientId, announcement.id);
    for (const id of foreign) {
      counters.increment("mqtt.foreign_components");
      log.sampled("mqtt.foreign_components", "a device announced what belongs to another one", {
        device: announcement.id,
        component: id,
      });
    }
    if (refusal === "forbidden") return false;
    return refusal === undefined ? announcement.id : undefined;
  }

  /** Of what is none of the gateway's business, commands are: a device with a token is commanded by users only. */
  function isAllowed({ identity, clientId }: Speaker, { payload }: InboundPublish): boolean {
    const target = targetOf(payload as Buffer);
    if (mayCommand(domain, identity, target)) return true;
    reject("forbidden", clientId, target);
    return false;
  }

  return function ingest(speaker, packet, done) {
    if (packet.topic !== topic && packet.topic !== discoveryTopic) return false;
    const message = parse(packet);
    if (message.kind === "reading") {
      takeReading(message, speaker, packet, done);
      return true;
    }
    const settle = (spoken: Spoken): void => done(null, spoken);
    const fail = (error: Error): void => done(error, undefined);
    if (message.kind === "check-response") takeResponse(message, speaker).then(settle, fail);
    else if (message.kind === "announcement") takeAnnouncement(message, speaker).then(settle, fail);
    else {
      if (message.kind === "rejected") reject(message.reason, speaker.clientId, message.detail);
      if (isAllowed(speaker, packet)) return false;
      done(null, false);
    }
    return true;
  };

  function parse({ topic: on, payload }: InboundPublish): Message {
    if (payload.byteLength > maxPayloadBytes) return { kind: "rejected", reason: "too_large" };
    return on === topic ? parseMessage(payload) : parseAnnouncement(payload);
  }
}

import { crc32 } from "node:zlib";
import { Work, type Ctx, type Domain } from "./ctx.ts";
import { DoubtError } from "./errors.ts";
import type { Identity } from "./identities.ts";
import { recordReading } from "./readings.ts";

// The way of readings that devices send: stored together with what else comes, and each exactly once.
//
// A reading without `value_at` carries nothing that would tell a resend from a new reading of the same value, except
// where the protocol says so: the same packet identifier, the same payload, and the DUP flag [MQTT-3.3.1-1]. So the
// fingerprints of the last ones stored are kept, beside the readings themselves: a device whose PUBACK a power cut
// swallowed sends again, and is known.

export interface Submission {
  sensorId: string;
  value: number;
  /** Absent: the time at which the reading is stored. */
  valueAt: number | undefined;
  speaker: Identity;
  /** See {@link fingerprintMessage}; 0: a resend is known by its time, or not at all. */
  fingerprint: number;
  /** The message says that it may have been sent before. */
  isMarkedDup: boolean;
}

/** What became of a reading. `deviceId`: the UUID of the device that has spoken; `undefined`: it is not known here. */
export type Outcome = { isResend: boolean; deviceId: string | undefined } | "unknown" | "forbidden";

export interface Intake {
  /**
   * Stores a reading; `done` is called, in the order of submission, when it is durable or known to be nothing to store.
   * With an error: the store did not take it.
   */
  submit(reading: Submission, done: (error: unknown, outcome: Outcome | undefined) => void): void;
}

/**
 * 48 bits: a checksum of who sent it and its bytes, and its packet identifier. Consulted for DUP alone, so chance matches
 * do not matter, and a digest would cost as much as all the rest of a message's way to the store.
 */
export const fingerprintMessage = (clientSum: number, messageId: number, payload: Uint8Array): number =>
  crc32(payload, clientSum) * 65_536 + messageId;

/** What a client's name contributes to the fingerprints of its messages. */
export const sumClientId = (clientId: string): number => crc32(clientId);

/** The resend of a reading that is in the store, of whatever device. */
const stored: Outcome = { isResend: true, deviceId: undefined };

type Done = (error: unknown, outcome: Outcome | undefined) => void;

/** One reading on its way. */
class Arrival extends Work {
  outcome: Outcome | undefined;
  isSettled = false;
  /** Those who sent it again before it was stored. */
  again: Done[] | undefined;
  readonly reading: Submission;
  readonly done: Done;
  readonly finished: (arrival: Arrival, error: unknown) => void;

  constructor(reading: Submission, done: Done, finished: (arrival: Arrival, error: unknown) => void) {
    super();
    this.reading = reading;
    this.done = done;
    this.finished = finished;
  }

  protected override apply(ctx: Ctx): void {
    this.outcome = recordReading(ctx, this.reading, this.reading);
  }

  protected override finish(error: unknown): void {
    this.finished(this, error);
    this.done(error, this.outcome);
    if (this.again !== undefined) for (const done of this.again) done(error, this.outcome);
  }
}

/** A reading that is known to be stored. It is answered in its turn: acknowledgements go out in the order of messages. */
class Known extends Work {
  readonly done: Done;

  constructor(done: Done) {
    super();
    this.done = done;
  }

  protected override apply(): void {}

  protected override finish(error: unknown): void {
    this.done(error, stored);
  }
}

/** `window`: how many fingerprints are kept. */
export function createIntake(domain: Domain, window: number): Intake {
  const known = createRecentSet(
    window,
    domain.read({ kind: "system" }, ({ readings }) => readings.fingerprints(window)),
  );
  /** Marked or not, by fingerprint: those that are on their way. Looked at for DUP alone. */
  const underWay: Arrival[] = [];
  let first = 0;

  function finish(arrival: Arrival, error: unknown): void {
    arrival.isSettled = true;
    // They are settled in the order in which they came, but for those that are refused at once, before all others.
    while (underWay[first]?.isSettled === true) first += 1;
    if (first > 1_024 && first * 2 > underWay.length) {
      underWay.splice(0, first);
      first = 0;
    }
    const { fingerprint } = arrival.reading;
    // Only now: what memory knew before its COMMIT would let a device's next try be acknowledged and lost. Where it was
    // lost, the packet identifier was in use for this one: an earlier one of the same bytes must not pass for it when the
    // device tries again. Where that is in doubt, it is in the store, and a resend waits until the disk has that.
    if (error === undefined || error instanceof DoubtError) known.add(fingerprint);
    else known.remove(fingerprint);
  }

  function findUnderWay(fingerprint: number): Arrival | undefined {
    for (let i = underWay.length - 1; i >= first; i--) {
      const arrival = underWay[i] as Arrival;
      if (arrival.reading.fingerprint === fingerprint && !arrival.isSettled) return arrival;
    }
    return undefined;
  }

  const ignore = (): void => undefined;

  return {
    submit(reading, done) {
      const { fingerprint } = reading;
      if (fingerprint === 0) {
        domain.enqueue(new Arrival(reading, done, ignore));
        return;
      }
      if (reading.isMarkedDup) {
        const original = findUnderWay(fingerprint);
        if (original !== undefined) {
          (original.again ??= []).push(done);
          return;
        }
        if (known.has(fingerprint)) {
          domain.enqueue(new Known(done));
          return;
        }
      }
      const arrival = new Arrival(reading, done, finish);
      underWay.push(arrival);
      domain.enqueue(arrival);
    },
  };
}

/**
 * Holds the last `size` numbers added. A ring for their order and chains of its places for their lookup, in arrays of
 * plain numbers: a Set of as many doubles is an object each, made and thrown away for every reading.
 */
function createRecentSet(size: number, initial: readonly number[]) {
  const ring = new Float64Array(size);
  /** The newest place of each chain, and the next older one of each place; -1: none. */
  const heads = new Int32Array(2 ** Math.ceil(Math.log2(size * 2))).fill(-1);
  const links = new Int32Array(size).fill(-1);
  let next = 0;

  const chainOf = (member: number): number => (member % 4_294_967_291) & (heads.length - 1);

  function unlink(place: number): void {
    const chain = chainOf(ring[place] as number);
    let at = heads[chain] as number;
    if (at === place) heads[chain] = links[place] as number;
    else {
      while (at !== -1 && links[at] !== place) at = links[at] as number;
      if (at !== -1) links[at] = links[place] as number;
    }
    ring[place] = 0;
  }

  function find(member: number): number {
    let at = heads[chainOf(member)] as number;
    while (at !== -1 && ring[at] !== member) at = links[at] as number;
    return at;
  }

  function add(member: number): void {
    if (ring[next] !== 0) unlink(next);
    const chain = chainOf(member);
    ring[next] = member;
    links[next] = heads[chain] as number;
    heads[chain] = next;
    next = (next + 1) % size;
  }

  for (const member of initial) add(member);
  return {
    add,
    has: (member: number): boolean => find(member) !== -1,
    remove(member: number): void {
      for (let at = find(member); at !== -1; at = find(member)) unlink(at);
    },
  };
}

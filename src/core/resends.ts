import { hash } from "node:crypto";
import { asc, lte } from "drizzle-orm";
import { resends } from "../store/schema.ts";
import type { Ctx, Domain } from "./ctx.ts";

// A reading without `value_at` carries nothing that would tell a resend from a new reading of the same value, except
// where the protocol says so: the same packet identifier, the same payload, and the DUP flag [MQTT-3.3.1-1]. So the
// fingerprints of the last ones stored are kept, in the transaction of the reading itself: a device whose PUBACK a
// power cut swallowed sends again, and is known.

export interface ResendGuard {
  /**
   * Commits `verb`, unless it is a resend of something that has been committed or is about to be: then it settles with
   * that one. `undefined` as result where the original was stored before.
   */
  commitOnce<T>(fingerprint: number, isMarkedDup: boolean, verb: (ctx: Ctx) => T): Promise<T | undefined>;
}

/** 48 bits over who sent it, its packet identifier and its bytes: consulted for DUP alone, so chance matches do not matter. */
export function fingerprintMessage(clientId: string, messageId: number, payload: Uint8Array): number {
  const digest = hash("sha1", Buffer.concat([Buffer.from(`${clientId}\0${messageId}\0`), payload]), "buffer");
  return digest.readUIntBE(0, 6);
}

/** Old rows go this many at a time. */
const trimEvery = 256;

/** `window`: how many fingerprints are kept. */
export function createResendGuard(domain: Domain, window: number): ResendGuard {
  const pending = new Map<number, Promise<unknown>>();
  /** The committed ones, oldest first: a Set keeps the order of insertion. */
  const known = new Set<number>(domain.read({ kind: "system" }, loadFingerprints));
  let lastSeq = domain.read({ kind: "system" }, loadLastSeq);

  function remember(fingerprint: number): void {
    known.delete(fingerprint);
    known.add(fingerprint);
    for (const oldest of known) {
      if (known.size <= window) break;
      known.delete(oldest);
    }
  }

  return {
    async commitOnce<T>(fingerprint: number, isMarkedDup: boolean, verb: (ctx: Ctx) => T) {
      if (isMarkedDup) {
        const original = pending.get(fingerprint);
        if (original !== undefined) return (await original) as T;
        // In its turn: acknowledgements go out in the order in which the messages came.
        if (known.has(fingerprint)) return domain.commit({ kind: "device" }, () => undefined);
      }
      const seq = ++lastSeq;
      const committed = domain.commit({ kind: "device" }, (ctx) => {
        const result = verb(ctx);
        storeFingerprint(ctx, seq, fingerprint);
        if (seq % trimEvery === 0)
          ctx.db
            .delete(resends)
            .where(lte(resends.seq, seq - window))
            .run();
        return result;
      });
      pending.set(fingerprint, committed);
      try {
        const result = await committed;
        // Only now: what memory knew before its COMMIT would let a device's next try be acknowledged and lost.
        remember(fingerprint);
        return result;
      } finally {
        if (pending.get(fingerprint) === committed) pending.delete(fingerprint);
      }
    },
  };
}

const loadFingerprints = (ctx: Ctx): number[] =>
  ctx.db
    .select()
    .from(resends)
    .orderBy(asc(resends.seq))
    .all()
    .map(({ fingerprint }) => fingerprint);

const loadLastSeq = (ctx: Ctx): number =>
  ctx.db.$client.prepare<[], number>("SELECT coalesce(max(seq), 0) FROM resends").pluck().get() ?? 0;

function storeFingerprint(ctx: Ctx, seq: number, fingerprint: number): void {
  ctx.db.insert(resends).values({ seq, fingerprint }).run();
}

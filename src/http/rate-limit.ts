import { DomainError } from "../core/errors.ts";
import type { CounterName, Counters } from "../counters.ts";

export interface RateLimitOptions {
  /** What a caller may spend at once. */
  burst: number;
  /** What comes back in a minute. */
  perMinute: number;
  /** Counts the refusals. */
  counters: Counters;
  counter: CounterName;
  /** Monotonic milliseconds: a clock that is set must neither lock anybody out nor let anybody in. */
  now?: () => number;
}

export interface Budget {
  burst: number;
  perMinute: number;
  /** Whole ones that are left. */
  remaining: number;
  /** Seconds until the bucket is full again. */
  resetSeconds: number;
}

export interface RateLimit {
  /** Spends one. @throws {DomainError} `rate_limited`, with the seconds until there is one again */
  spend(key: string): void;
  /** What is left, of which nothing is spent by asking. */
  budgetOf(key: string): Budget;
  /** Gives one back: the attempt was a good one. */
  refund(key: string): void;
}

/** More callers at once than a site has; beyond it the one longest unseen is forgotten, and starts with a full bucket. */
const maxKeys = 10_000;

/** Token buckets, one for each key. */
export function createRateLimit({
  burst,
  perMinute,
  counters,
  counter,
  now = () => performance.now(),
}: RateLimitOptions): RateLimit {
  const buckets = new Map<string, { tokens: number; at: number }>();
  const perMs = perMinute / 60_000;

  function open(key: string): { tokens: number; at: number } {
    const at = now();
    const bucket = buckets.get(key) ?? { tokens: burst, at };
    bucket.tokens = Math.min(burst, bucket.tokens + (at - bucket.at) * perMs);
    bucket.at = at;
    buckets.delete(key);
    if (buckets.size >= maxKeys) forgetOldest(at);
    buckets.set(key, bucket);
    return bucket;
  }

  function forgetOldest(at: number): void {
    const [key, { tokens, at: seenAt }] = buckets.entries().next().value as [string, { tokens: number; at: number }];
    buckets.delete(key);
    // A full bucket is no loss to anybody.
    if (tokens + (at - seenAt) * perMs < burst) counters.increment("http.callers_forgotten");
  }

  return {
    spend(key) {
      const bucket = open(key);
      if (bucket.tokens < 1) {
        counters.increment(counter);
        throw new DomainError("rate_limited", "too many attempts, try again later", {
          retryAfterSeconds: Math.ceil((1 - bucket.tokens) / perMs / 1_000),
        });
      }
      bucket.tokens -= 1;
    },
    budgetOf(key) {
      const bucket = open(key);
      return {
        burst,
        perMinute,
        remaining: Math.floor(bucket.tokens),
        resetSeconds: Math.ceil((burst - bucket.tokens) / perMs / 1_000),
      };
    },
    refund(key) {
      const bucket = open(key);
      bucket.tokens = Math.min(burst, bucket.tokens + 1);
    },
  };
}

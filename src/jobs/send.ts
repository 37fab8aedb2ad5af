import { lookup as lookUp, type LookupAddress } from "node:dns";
import { request as requestHttp, type RequestOptions } from "node:http";
import { request as requestHttps } from "node:https";
import type { LookupFunction } from "node:net";
import { isIP } from "node:net";
import { networkInterfaces } from "node:os";
import { isLoopback } from "../core/peers.ts";
import { findForbiddenTarget, plainAddress } from "../core/targets.ts";
import { maxRetryAfterMs, type Attempt } from "../core/deliveries.ts";

export interface SendInput {
  url: string;
  headers: Record<string, string>;
  body: string;
  signal: AbortSignal;
}

/** Makes one request and says what came of it. Never rejects. */
export type Send = (input: SendInput) => Promise<Attempt>;

export interface SenderOptions {
  /** The gateway's own ports: a webhook is no way to talk to oneself. */
  ownPorts: () => readonly number[];
  now: () => number;
  timeoutMs?: number;
  /** How names are looked up. */
  resolve?: typeof lookUp;
}

const defaultTimeoutMs = 15_000;
/** More of an answer than this is not read: only its status matters. */
const maxAnswerBytes = 64 * 1024;

class ForbiddenTarget extends Error {}

/**
 * Sends webhooks: no redirects, no kept connections, 15 s for all of it. The address is checked when it is connected to,
 * whatever the name meant when the webhook was made.
 */
export function createSender({ ownPorts, now, timeoutMs = defaultTimeoutMs, resolve = lookUp }: SenderOptions): Send {
  function check(address: string, port: number): void {
    const reason =
      findForbiddenTarget(address) ??
      (ownPorts().includes(port) && isThisMachine(address) ? "this gateway itself" : undefined);
    if (reason !== undefined) throw new ForbiddenTarget(`refused: it leads to ${reason}`);
  }

  const checkedLookup =
    (port: number): LookupFunction =>
    (hostname, options, callback) => {
      resolve(hostname, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
        if (error !== null) return callback(error, "", 0);
        try {
          for (const { address } of addresses) check(address, port);
        } catch (refusal) {
          return callback(refusal as Error, "", 0);
        }
        const [first] = addresses;
        if (options.all === true) return callback(null, addresses);
        return callback(null, first?.address ?? "", first?.family ?? 0);
      });
    };

  return async function send({ url: text, headers, body, signal }) {
    try {
      const url = new URL(text);
      const isSecure = url.protocol === "https:";
      const port = url.port === "" ? (isSecure ? 443 : 80) : Number(url.port);
      const host = url.hostname.replaceAll(/[[\]]/g, "");
      if (isIP(host) !== 0) check(host, port); // no lookup is made for what is an address already
      const timeout = AbortSignal.timeout(timeoutMs);
      const { status, retryAfter } = await post(isSecure ? requestHttps : requestHttp, url, body, {
        method: "POST",
        agent: false,
        lookup: checkedLookup(port),
        signal: AbortSignal.any([signal, timeout]),
        headers: {
          ...headers,
          "Content-Type": "application/json",
          "Content-Length": Buffer.byteLength(body),
          "User-Agent": "lambdaiot",
        },
      });
      return { status, retryAfterMs: parseRetryAfter(retryAfter, now()) };
    } catch (error) {
      return { error: explain(error as Error, timeoutMs) };
    }
  };
}

const post = (request: typeof requestHttp, url: URL, body: string, options: RequestOptions) =>
  new Promise<{ status: number; retryAfter: string | undefined }>((resolve, reject) => {
    let known: { status: number; retryAfter: string | undefined } | undefined;
    // What the receiver has said counts, however the rest of its answer ends.
    const settle = (error: Error): void => (known === undefined ? reject(error) : resolve(known));
    const call = request(url, options, (answer) => {
      known = { status: answer.statusCode ?? 0, retryAfter: answer.headers["retry-after"] };
      let bytes = 0;
      answer.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > maxAnswerBytes) call.destroy();
      });
      answer.on("error", settle);
    });
    call.on("error", settle);
    // After the answer's end, and after whatever else ends it: a switch of protocols for one is no answer.
    call.once("close", () => settle(new Error("the connection was closed without an answer")));
    call.end(body);
  });

/** Seconds or an HTTP date (RFC 9110, section 10.2.3), as milliseconds from now. */
function parseRetryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - now;
  return Number.isFinite(ms) ? Math.min(Math.max(0, ms), maxRetryAfterMs) : undefined;
}

function explain(error: Error, timeoutMs: number): string {
  if (error.name === "TimeoutError" || (error.cause as Error | undefined)?.name === "TimeoutError")
    return `no answer within ${timeoutMs / 1_000} s`;
  return error instanceof ForbiddenTarget ? error.message : ((error as NodeJS.ErrnoException).code ?? error.message);
}

function isThisMachine(address: string): boolean {
  const bare = plainAddress(address);
  if (isLoopback(bare)) return true;
  return Object.values(networkInterfaces()).some((all) => all?.some((own) => plainAddress(own.address) === bare));
}

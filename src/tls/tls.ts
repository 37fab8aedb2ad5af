import type { X509Certificate } from "node:crypto";
import { statSync } from "node:fs";
import type { Socket } from "node:net";
import type { Server, TlsOptions } from "node:tls";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { lastDayOf, readPair, type Pair, type PairFiles } from "./files.ts";

/** The gateway's side of TLS: one certificate for every server, which changes while they run. */
export interface Tls {
  /** For `tls.createServer` and `https.createServer`; {@link attach} the server then. */
  serverOptions(): TlsOptions;
  /** From now on `server` has the current certificate, and failed handshakes are counted. */
  attach(server: Server): void;
  /** The one in use. */
  certificate(): X509Certificate;
  /** PEM, where it is ours to give out. */
  authority(): string | undefined;
  /** Reads the files again. What cannot be used is logged, and the old certificate stays. */
  reload(): void;
  /** Ends what is still open: a handshake under way is no connection that its server would know of. */
  close(): void;
}

/** A port for TLS. */
export interface SecurePort {
  tls: Tls;
  host: string | undefined;
  port: number;
}

export interface TlsSettings {
  files: PairFiles;
  handshakeTimeoutMs: number;
  log: Log;
  counters: Counters;
  /** The wall clock, epoch milliseconds. */
  now: () => number;
}

/**
 * The files are looked at so often. They are read once they have stood still from one look to the next: a pair is
 * written in two steps. By their state and not by notification: certbot changes what a link leads to.
 */
const pollMs = 2_000;
const dayMs = 86_400_000;
const warnBeforeMs = 30 * dayMs;

/** @throws {StartError} exit code 2, where the files are of no use */
export function createTls({ files, handshakeTimeoutMs, log, counters, now }: TlsSettings): Tls {
  let taken = describeState(files);
  let seen = taken;
  let pair = readPair(files);
  const servers: Server[] = [];
  const sockets = new Set<Socket>();

  function take(): void {
    taken = seen = describeState(files);
    let next: Pair;
    try {
      next = readPair(files);
    } catch (error) {
      counters.increment("tls.reloads_failed");
      log.error("the new TLS certificate cannot be used, the old one stays", { error });
      return;
    }
    const isNew = next.cert !== pair.cert || next.key !== pair.key;
    pair = next;
    if (isNew) for (const server of servers) server.setSecureContext(contextOf(pair));
    log.info(isNew ? "the TLS certificate is a new one" : "the TLS certificate has not changed", {
      sha256: pair.certificate.fingerprint256,
      until: lastDayOf(pair.certificate),
    });
    warnOfEnd();
  }

  function warnOfEnd(): void {
    const { certificate } = pair;
    const leftMs = certificate.validToDate.getTime() - now();
    const fields = {
      file: files.certificate,
      until: lastDayOf(certificate),
      renew: files.authority === undefined ? undefined : "lambdaiot cert init",
    };
    if (certificate.validFromDate.getTime() > now())
      log.warn("the TLS certificate is not valid yet; is the clock right?", {
        file: files.certificate,
        from: certificate.validFromDate.toISOString(),
      });
    else if (leftMs <= 0) log.warn("the TLS certificate has ended; clients refuse it until it is renewed", fields);
    else if (leftMs < warnBeforeMs)
      log.warn("the TLS certificate ends soon", { ...fields, days: Math.floor(leftMs / dayMs) });
  }

  const poll = setInterval(() => {
    const state = describeState(files);
    if (state !== taken && state === seen) take();
    seen = state;
  }, pollMs);
  const daily = setInterval(warnOfEnd, dayMs);
  poll.unref();
  daily.unref();
  warnOfEnd();

  return {
    serverOptions: () => ({ ...contextOf(pair), handshakeTimeout: handshakeTimeoutMs }),
    attach(server) {
      servers.push(server);
      server.on("connection", (socket: Socket) => {
        sockets.add(socket);
        socket.once("close", () => sockets.delete(socket));
      });
      server.on("tlsClientError", (error: NodeJS.ErrnoException & { reason?: string }, socket) => {
        counters.increment("tls.handshakes_failed");
        const reason = error.reason ?? error.code ?? error.message;
        log.sampled("tls.handshakes_failed", "TLS handshake failed", { reason, peer: socket.remoteAddress });
        socket.destroy(); // Node leaves it open when the time for a handshake is over
      });
    },
    certificate: () => pair.certificate,
    authority: () => pair.authority,
    reload: take,
    close() {
      clearInterval(poll);
      clearInterval(daily);
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Everything that a new certificate must not change goes with it: `setSecureContext` starts from nothing. */
const contextOf = ({ cert, key }: Pair) => ({ cert, key, minVersion: "TLSv1.2" as const });

/** Changes when any of the files does. */
function describeState({ certificate, key, authority }: PairFiles): string {
  return [certificate, key, ...(authority === undefined ? [] : [authority])]
    .map((file) => {
      try {
        const { ino, size, mtimeMs, ctimeMs } = statSync(file);
        return `${ino} ${size} ${mtimeMs} ${ctimeMs}`;
      } catch (error) {
        return (error as NodeJS.ErrnoException).code;
      }
    })
    .join();
}

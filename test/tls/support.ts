import type { KeyObject } from "node:crypto";
import { writeFileSync } from "node:fs";
import { request } from "node:https";
import { join } from "node:path";
import { connect, type ConnectionOptions, type TLSSocket } from "node:tls";
import { issueServer, makeAuthority, makeKey, type Issued } from "../../src/tls/authority.ts";

export interface Handshake {
  /** Of the certificate; empty where a session was resumed in which it is not shown. */
  sha256: string;
  protocol: string | null;
  isReused: boolean;
  session: Buffer | undefined;
}

/** What a client sees that trusts `ca`. @throws where one of the two does not want to */
export async function shakeHands(port: number, ca: string, options: ConnectionOptions = {}): Promise<Handshake> {
  const socket = await openSecure(port, ca, options);
  const seen = {
    sha256: socket.getPeerX509Certificate()?.fingerprint256 ?? "",
    protocol: socket.getProtocol(),
    isReused: socket.isSessionReused(),
    session: socket.getSession(),
  };
  socket.destroy();
  return seen;
}

/** A TLS connection after its handshake. */
export const openSecure = (port: number, ca: string, options: ConnectionOptions = {}): Promise<TLSSocket> =>
  new Promise((resolve, reject) => {
    const socket = connect({ port, host: "127.0.0.1", ca, ...options }, () => {
      socket.off("error", reject).on("error", () => undefined);
      resolve(socket);
    }).once("error", reject);
  });

/** GET over HTTPS, as a client that trusts `ca`. */
export const getSecure = (port: number, path: string, ca: string): Promise<{ status: number; body: string }> =>
  new Promise((resolve, reject) => {
    request({ port, path, ca, host: "127.0.0.1", agent: false }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
    })
      .once("error", reject)
      .end();
  });

/** Files of a certificate that somebody else's authority has signed. */
export function writePair(
  folder: string,
  {
    authority = makeAuthority({ host: "elsewhere", now: Date.now() }),
    key = makeKey(),
    now = Date.now(),
  }: {
    authority?: Issued;
    key?: KeyObject;
    now?: number;
  } = {},
) {
  const certificate = issueServer(authority, { key, names: ["localhost", "127.0.0.1"], now });
  const files = { certificate: join(folder, "given.pem"), key: join(folder, "given.key"), authority: undefined };
  writeFileSync(files.certificate, certificate.toString());
  writeFileSync(files.key, key.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  return { files, ca: authority.certificate.toString(), sha256: certificate.fingerprint256, authority, key };
}

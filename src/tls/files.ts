import { X509Certificate, createPrivateKey, type KeyObject } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { createSecureContext } from "node:tls";
import { StartError } from "../core/errors.ts";

// PEM files on the disk: where they are, and whether a server can use them.

export interface PairFiles {
  /** The server's certificate, with those between it and its authority behind it where there are any. */
  certificate: string;
  key: string;
  /** The authority's certificate, for devices that are to trust it; `undefined` where it is not ours to give out. */
  authority: string | undefined;
}

export interface Pair {
  /** As in the files, for `tls.createSecureContext`. */
  cert: string;
  key: string;
  certificate: X509Certificate;
  /** PEM, for devices that are to trust it. */
  authority: string | undefined;
}

/** What `lambdaiot cert init` makes, beside the store. */
export function ownFiles(dataFolder: string): PairFiles & { folder: string; authority: string; authorityKey: string } {
  const folder = join(dataFolder, "tls");
  return {
    folder,
    certificate: join(folder, "server.crt"),
    key: join(folder, "server.key"),
    authority: join(folder, "ca.crt"),
    authorityKey: join(folder, "ca.key"),
  };
}

/** The configured files, else those that `cert init` made; `undefined` where there are none, and no TLS. */
export function findPair(
  { certificate, key }: { certificate?: string | undefined; key?: string | undefined },
  dataFolder: string,
): PairFiles | undefined {
  if (certificate !== undefined && key !== undefined) return { certificate, key, authority: undefined };
  const own = ownFiles(dataFolder);
  return isPresent(own.certificate) ? own : undefined;
}

/** What may not be looked at counts as being there: that TLS is off then must not go unnoticed. */
function isPresent(file: string): boolean {
  try {
    return statSync(file, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return true;
  }
}

/** @throws {StartError} exit code 2: one line for each way in which files can be of no use to a server */
export function readPair(files: PairFiles): Pair {
  const cert = readPem(files.certificate);
  const certificate = parseCertificate(cert, files.certificate);
  const { pem, key } = readPrivateKey(files.key);
  if (!certificate.checkPrivateKey(key))
    throw new StartError(`${files.key} is not the private key of ${files.certificate}`, 2);
  try {
    createSecureContext({ cert, key: pem });
  } catch (error) {
    throw new StartError(`${files.certificate} cannot be used: ${reasonOf(error)}`, 2);
  }
  const authority = files.authority !== undefined && existsSync(files.authority) ? readPem(files.authority) : undefined;
  if (authority !== undefined) parseCertificate(authority, files.authority as string);
  return { cert, key: pem, certificate, authority };
}

/** @throws {StartError} also where others than its owner can read it */
export function readPrivateKey(file: string): { pem: string; key: KeyObject } {
  const pem = readPem(file);
  refuseShared(file);
  try {
    return { pem, key: createPrivateKey(pem) };
  } catch {
    throw new StartError(
      pem.includes("ENCRYPTED")
        ? `${file} is encrypted; the gateway needs a private key without a passphrase`
        : `${file} holds no private key in PEM form`,
      2,
    );
  }
}

/** The first certificate of a file. @throws {StartError} */
export const readCertificate = (file: string): X509Certificate => parseCertificate(readPem(file), file);

function parseCertificate(pem: string, file: string): X509Certificate {
  const blocks =
    pem.match(/-----BEGIN (?:TRUSTED )?CERTIFICATE-----[^-]*-----END (?:TRUSTED )?CERTIFICATE-----/g) ?? [];
  try {
    const [first = new X509Certificate("")] = blocks.map((block) => new X509Certificate(block));
    return first;
  } catch {
    throw new StartError(`${file} holds no certificate in PEM form, or a broken one`, 2);
  }
}

function readPem(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new StartError(`${file} cannot be read: ${(error as NodeJS.ErrnoException).code ?? reasonOf(error)}`, 2);
  }
}

function refuseShared(file: string): void {
  if (process.platform === "win32" || (statSync(file).mode & 0o077) === 0) return;
  throw new StartError(`${file} can be read by others; make it yours alone: chmod 600 ${file}`, 2);
}

/** OpenSSL's word for it, without its codes. */
const reasonOf = (error: unknown): string =>
  (error as { reason?: string }).reason ?? (error as Error).message.split("\n", 1)[0] ?? "";

/** The day on which a certificate ends, `2029-02-23`. */
export const lastDayOf = ({ validToDate }: X509Certificate): string => validToDate.toISOString().slice(0, 10);

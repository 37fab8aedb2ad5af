import type { X509Certificate } from "node:crypto";
import {
  chmodSync,
  closeSync,
  existsSync,
  fchownSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { isIP, isIPv6 } from "node:net";
import { hostname, networkInterfaces } from "node:os";
import { domainToASCII } from "node:url";
import { StartError } from "../core/errors.ts";
import { issueServer, makeAuthority, makeKey, type Issued } from "./authority.ts";
import { lastDayOf, ownFiles, readCertificate, readPrivateKey } from "./files.ts";

// `lambdaiot cert init`: an authority of the gateway's own, and a certificate for all names and addresses that this
// machine has. Run again, it makes a new certificate with the same authority, so that whoever trusts that goes on.

export interface InitOptions {
  dataFolder: string;
  /** Further names and addresses by which the gateway is reached. */
  names: readonly string[];
  /** A new authority and new keys, whatever there is. */
  isForced: boolean;
  now: number;
}

export interface Made {
  folder: string;
  authorityFile: string;
  authority: X509Certificate;
  isNewAuthority: boolean;
  certificate: X509Certificate;
  names: string[];
}

/** @throws {StartError} a name that is none, files that cannot be read or written, an authority that has ended */
export function makeCertificates({ dataFolder, names, isForced, now }: InitOptions): Made {
  const files = ownFiles(dataFolder);
  const given = names.map(parseName);
  try {
    const owner = openFolder(files.folder, dataFolder);
    const kept = isForced ? undefined : readAuthority(files.authority, files.authorityKey, now);
    const own = listOwnNames();
    const authority = kept ?? makeAuthority({ host: own[0] ?? "gateway", now });
    // The names that were given before are not asked for again; addresses that the machine has no longer do no harm.
    const before = kept === undefined ? [] : readNames(files.certificate);
    const all = [...new Set([...own, ...given, ...before])];
    // The key is kept with its authority: one file changes then, in one step, and no crash leaves two that do not fit.
    const oldKey = kept !== undefined && existsSync(files.key) ? readPrivateKey(files.key).key : undefined;
    const key = oldKey ?? makeKey();
    const certificate = issueServer(authority, { key, names: all, now });
    const write = (file: string, text: string): void => writeFile(file, text, owner);
    if (kept === undefined) {
      write(files.authorityKey, exportKey(authority));
      write(files.authority, authority.certificate.toString());
    }
    if (oldKey === undefined) write(files.key, exportKey({ key }));
    write(files.certificate, certificate.toString());
    return {
      folder: files.folder,
      authorityFile: files.authority,
      authority: authority.certificate,
      isNewAuthority: kept === undefined,
      certificate,
      names: all,
    };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (error instanceof StartError || code === undefined || !/^E[A-Z]+$/.test(code)) throw error;
    throw new StartError(`${files.folder} cannot be written: ${message}`);
  }
}

function readAuthority(certificateFile: string, keyFile: string, now: number): Issued | undefined {
  if (!existsSync(certificateFile) && !existsSync(keyFile)) return undefined;
  const anew = "--force makes a new authority, which every device then has to be given";
  if (!existsSync(keyFile) || !existsSync(certificateFile)) {
    const missing = existsSync(keyFile) ? certificateFile : keyFile;
    throw new StartError(`${missing} is missing, so nothing can be signed; ${anew}`);
  }
  const certificate = readCertificate(certificateFile);
  const { key } = readPrivateKey(keyFile);
  if (!certificate.checkPrivateKey(key))
    throw new StartError(`${keyFile} is not the private key of ${certificateFile}; ${anew}`);
  if (certificate.validToDate.getTime() <= now)
    throw new StartError(`the authority ${certificateFile} has ended on ${lastDayOf(certificate)}; ${anew}`);
  return { certificate, key };
}

const exportKey = ({ key }: Pick<Issued, "key">): string => key.export({ type: "pkcs8", format: "pem" });

interface Owner {
  uid: number;
  gid: number;
}

/**
 * Makes the folder, for its owner alone. Links are not followed: root may be at work where somebody else can write.
 * @returns whom its files are to belong to: with sudo, whoever has the data, or a gateway that is not root could not
 *   read them; `undefined` where nothing has to be done for it
 */
function openFolder(folder: string, dataFolder: string): Owner | undefined {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (!lstatSync(folder).isDirectory()) throw new StartError(`${folder} is not a folder`);
  chmodSync(folder, 0o700);
  if (process.getuid?.() !== 0) return undefined;
  const { uid, gid } = statSync(dataFolder);
  lchownSync(folder, uid, gid);
  return { uid, gid };
}

/** Whole or not at all, also for a gateway that reads it at this moment. */
function writeFile(file: string, text: string, owner: Owner | undefined): void {
  const aside = `${file}.new`;
  rmSync(aside, { force: true });
  const descriptor = openSync(aside, "wx", 0o600);
  try {
    writeFileSync(descriptor, text, { flush: true });
    if (owner !== undefined) fchownSync(descriptor, owner.uid, owner.gid);
  } finally {
    closeSync(descriptor);
  }
  renameSync(aside, file);
}

/** A name or an address, as it stands in a certificate. @throws {StartError} exit code 2 */
function parseName(text: string): string {
  const bare = text.trim().replace(/^\[(.*)\]$/, "$1");
  if (isIP(bare)) return normalizeIp(bare);
  // It would read "host:1/path" as its host alone.
  const ascii = /[/\\?#@:]/.test(bare) ? "" : domainToASCII(bare.replace(/^\*\./, ""));
  if (ascii === "" || ascii.length > 253 || !ascii.split(".").every((label) => labelPattern.test(label)))
    throw new StartError(`--name ${JSON.stringify(text)} is neither a host name nor an IP address`, 2);
  return bare.startsWith("*.") ? `*.${ascii}` : ascii;
}

const labelPattern = /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/;

/** As URLs write it: lower case, the longest run of zeros left out. */
const normalizeIp = (address: string): string =>
  isIPv6(address) ? (URL.parse(`http://[${address}]`)?.hostname.slice(1, -1) ?? address) : address;

/** What this machine is called: its host name first, and each of its addresses but the link-local ones. */
function listOwnNames(): string[] {
  const host = hostname().toLowerCase();
  const isName = host !== "localhost" && host.split(".").every((label) => labelPattern.test(label));
  const addresses = Object.values(networkInterfaces()).flatMap((entries) =>
    (entries ?? []).filter(({ address }) => !/^(?:fe[89ab]|169\.254\.)/i.test(address)),
  );
  return [
    ...(isName ? [host] : []),
    ...(isName && !host.includes(".") ? [`${host}.local`] : []), // mDNS, by which hobbyists reach a Pi
    "localhost",
    "127.0.0.1",
    "::1",
    ...addresses.map(({ address }) => normalizeIp(address)),
  ];
}

/** What a certificate is good for; nothing where there is none. */
function readNames(file: string): string[] {
  try {
    const { subjectAltName = "" } = readCertificate(file);
    return subjectAltName
      .split(", ")
      .flatMap((entry) => /^(?:DNS|IP Address):(\S+)$/.exec(entry)?.[1] ?? [])
      .map((name) => (isIP(name) ? normalizeIp(name) : name));
  } catch (error) {
    if (error instanceof StartError) return []; // not there, or broken: a new one takes its place
    throw error;
  }
}

/** What `cert init` says: what it has made, and what to do with it. */
export function renderMade(
  { authorityFile, authority, isNewAuthority, certificate, names }: Made,
  ports: { httpPort: number; httpsPort: number; mqttsPort: number; /** No other is configured. */ isUsed: boolean },
): string {
  const host = names.find((name) => name.endsWith(".local")) ?? names[0] ?? "localhost";
  const endsWithIt = certificate.validTo === authority.validTo;
  const takenUp = ports.isUsed
    ? "A gateway that speaks TLS takes it up within seconds; one that does not yet has to be restarted."
    : "The configuration names another certificate, tls.certificate: the gateway goes on with that one.";
  const next = isNewAuthority
    ? `Whoever is to trust this gateway needs the authority's certificate, once. Copy the file, or download it, and compare
its SHA-256 with the one above:
  curl http://${host}:${ports.httpPort}/ca.crt -o ca.crt && openssl x509 -in ca.crt -noout -fingerprint -sha256

phones, browsers    open http://${host}:${ports.httpPort}/ca.crt there, and install it as a certificate authority
programs            curl --cacert ca.crt https://${host}:${ports.httpsPort}/health
                    mosquitto_sub --cafile ca.crt -h ${host} -p ${ports.mqttsPort} -t '#' -v
ESP32, ESP8266      put the text of ca.crt into the firmware: setCACert, or an X509List for setTrustAnchors`
    : "Whoever trusts the authority trusts the new certificate too; nothing has to be done on devices.";
  return `authority    ${authorityFile}${isNewAuthority ? " (new)" : ""}, until ${lastDayOf(authority)}
  SHA-256    ${authority.fingerprint256}
certificate  until ${lastDayOf(certificate)}${endsWithIt ? " (with its authority: --force makes another)" : ""}, for ${names.join(", ")}
  SHA-256    ${certificate.fingerprint256}

${takenUp}

${next}
`;
}

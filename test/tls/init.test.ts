import { X509Certificate } from "node:crypto";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { StartError } from "../../src/core/errors.ts";
import { ownFiles, readPair } from "../../src/tls/files.ts";
import { makeCertificates, type InitOptions } from "../../src/tls/init.ts";
import { makeFolder } from "../support/gateway.ts";

const now = Date.UTC(2026, 0, 14, 10);
const dayMs = 86_400_000;

let folder = "";
let remove = (): void => undefined;
beforeEach(() => ({ folder, remove } = makeFolder()));
afterEach(() => remove());

const make = (options: Partial<InitOptions> = {}) =>
  makeCertificates({ dataFolder: folder, names: [], isForced: false, now, ...options });

const modeOf = (file: string): string => (statSync(file).mode & 0o777).toString(8);

function refusal(run: () => unknown): { message: string; exitCode: number } {
  try {
    run();
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    return { message: error.message, exitCode: error.exitCode };
  }
  throw new Error("it was not refused");
}

describe("the first time", () => {
  test("four files that are their owner's alone, in a folder of their own", () => {
    make({ dataFolder: join(folder, "data") });
    const own = join(folder, "data/tls");
    expect(modeOf(own)).toBe("700");
    expect(readdirSync(own).toSorted()).toEqual(["ca.crt", "ca.key", "server.crt", "server.key"]);
    for (const name of readdirSync(own)) expect(modeOf(join(own, name))).toBe("600");
  });

  test("the certificate is good for this machine's names and addresses, and for those given", () => {
    const { certificate } = make({ names: ["Gateway.Example.org", "*.iot.example", "203.0.113.9", "[2001:DB8::0:1]"] });
    const own = hostname().toLowerCase();
    for (const name of [own, "localhost", "gateway.example.org", "attic.iot.example"])
      expect(certificate.checkHost(name)).toBeDefined();
    for (const address of ["127.0.0.1", "::1", "203.0.113.9", "2001:db8::1"])
      expect(certificate.checkIP(address)).toBeDefined();
    expect(certificate.checkHost("example.org")).toBeUndefined();
  });

  test("ten years for the authority, and 825 days in all for the server, as phones want it", () => {
    const { authority, certificate } = make();
    expect(authority.ca).toBe(true);
    expect(certificate.ca).toBe(false);
    expect(certificate.verify(authority.publicKey)).toBe(true);
    expect(certificate.validFromDate.getTime()).toBeLessThan(now);
    const seconds = (certificate.validToDate.getTime() - certificate.validFromDate.getTime()) / 1_000 + 1;
    expect(seconds).toBe(825 * 86_400);
    expect(authority.validToDate.getUTCFullYear()).toBe(2036);
    for (const { publicKey } of [authority, certificate])
      expect(publicKey.asymmetricKeyDetails).toMatchObject({ namedCurve: "prime256v1" });
  });

  test.skipIf(spawnSync("openssl", ["version"]).status !== 0)("OpenSSL, at its strictest, takes the chain", () => {
    make({ now: Date.now() });
    const { authority, certificate } = ownFiles(folder);
    const args = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", authority, certificate];
    expect(spawnSync("openssl", args, { encoding: "utf8" })).toMatchObject({
      status: 0,
      stdout: `${certificate}: OK\n`,
    });
  });

  test("no two authorities, and no two certificates, are alike", () => {
    const [a, b] = [make(), make({ isForced: true })];
    expect(a.authority.subject).not.toBe(b.authority.subject);
    expect(new Set([a, b].flatMap((made) => [made.authority.serialNumber, made.certificate.serialNumber])).size).toBe(
      4,
    );
  });
});

describe("again", () => {
  test("the authority stays, and the server's key with it; the certificate is a new one", () => {
    const first = make({ names: ["gateway.example.org", "203.0.113.9", "2001:db8::1"] });
    const key = readFileSync(ownFiles(folder).key);
    const second = make({ now: now + 700 * dayMs });
    expect(second).toMatchObject({
      isNewAuthority: false,
      authority: { fingerprint256: first.authority.fingerprint256 },
    });
    expect(second.certificate.validToDate.getTime() - first.certificate.validToDate.getTime()).toBe(700 * dayMs);
    expect(readFileSync(ownFiles(folder).key)).toEqual(key);
    expect(readPair(ownFiles(folder)).certificate.fingerprint256).toBe(second.certificate.fingerprint256);
    // What was given before is not asked for again, and nothing stands there twice.
    expect(second.names).toEqual(first.names);
  });

  test("with force everything is new, and names given before are forgotten", () => {
    const first = make({ names: ["gateway.example.org"] });
    const key = readFileSync(ownFiles(folder).key);
    const second = make({ isForced: true });
    expect(second.isNewAuthority).toBe(true);
    expect(second.certificate.verify(first.authority.publicKey)).toBe(false);
    expect(readFileSync(ownFiles(folder).key)).not.toEqual(key);
    expect(second.names).not.toContain("gateway.example.org");
  });

  test("the certificate ends with its authority at the latest", () => {
    const { authority } = make();
    expect(make({ now: now + 3_600 * dayMs }).certificate.validTo).toBe(authority.validTo);
  });

  test("an authority that has ended signs nothing", () => {
    make();
    const { message } = refusal(() => make({ now: now + 3_700 * dayMs }));
    expect(message).toMatch(/ca\.crt has ended on 2036-01-\d\d; --force/);
  });

  test.each(["ca.crt", "ca.key"])("without its %s the authority signs nothing, and nothing is changed", (name) => {
    make();
    rmSync(join(folder, "tls", name));
    const before = readFileSync(ownFiles(folder).certificate);
    expect(refusal(make).message).toMatch(new RegExp(`${name.replace(".", "\\.")} is missing.*--force`));
    expect(readFileSync(ownFiles(folder).certificate)).toEqual(before);
    expect(make({ isForced: true }).isNewAuthority).toBe(true);
  });

  test("an authority with another's key signs nothing", () => {
    make();
    const { message } = refusal(() => {
      writeFileSync(ownFiles(folder).authorityKey, readFileSync(ownFiles(folder).key));
      make();
    });
    expect(message).toMatch(/ca\.key is not the private key of .*ca\.crt/);
  });

  test.each(["ca.key", "server.key"])("a %s that others can read is refused", (name) => {
    make();
    const file = join(folder, "tls", name);
    for (const mode of [0o640, 0o604]) {
      chmodSync(file, mode);
      expect(refusal(make)).toEqual({
        message: `${file} can be read by others; make it yours alone: chmod 600 ${file}`,
        exitCode: 2,
      });
    }
  });

  test("what is broken or missing besides is made anew", () => {
    const first = make();
    writeFileSync(ownFiles(folder).certificate, "broken");
    rmSync(ownFiles(folder).key);
    const second = make();
    expect(second.authority.fingerprint256).toBe(first.authority.fingerprint256);
    expect(readPair(ownFiles(folder)).certificate.fingerprint256).toBe(second.certificate.fingerprint256);
  });

  test("a link is not followed: root may be at work where others can write", () => {
    mkdirSync(join(folder, "elsewhere"));
    symlinkSync(join(folder, "elsewhere"), join(folder, "tls"));
    expect(refusal(make).message).toBe(`${join(folder, "tls")} is not a folder`);
    rmSync(join(folder, "tls"));
    mkdirSync(join(folder, "tls"));
    symlinkSync(join(folder, "elsewhere/a"), join(folder, "tls/server.crt.new"));
    make();
    expect(readdirSync(join(folder, "elsewhere"))).toEqual([]);
  });

  test.skipIf(process.getuid?.() !== 0)("with sudo, what is made belongs to whoever has the data", () => {
    chownSync(folder, 1234, 1234);
    make();
    const files = ["", ...readdirSync(join(folder, "tls"))].map((name) => statSync(join(folder, "tls", name)));
    expect(files.map(({ uid, gid }) => [uid, gid])).toEqual(files.map(() => [1234, 1234]));
  });

  test("a crash in the midst leaves nothing in the way", () => {
    mkdirSync(join(folder, "tls"));
    writeFileSync(join(folder, "tls/server.crt.new"), "half", { mode: 0o644 });
    make();
    expect(modeOf(ownFiles(folder).certificate)).toBe("600");
    expect(existsSync(join(folder, "tls/server.crt.new"))).toBe(false);
    expect(new X509Certificate(readFileSync(ownFiles(folder).certificate)).ca).toBe(false);
  });
});

test.each(["", "a b", "-a", "a..b", "http://a", "a:8443", "*.*.a", `${"a".repeat(64)}.b`, "1.2.3.4/8"])(
  "%j is no name",
  (name) => {
    expect(refusal(() => make({ names: [name] }))).toEqual({
      message: `--name ${JSON.stringify(name)} is neither a host name nor an IP address`,
      exitCode: 2,
    });
    expect(readdirSync(folder)).toEqual([]);
  },
);

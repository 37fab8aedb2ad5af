import { X509Certificate, createHash, createPublicKey, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { isIP } from "node:net";
import { AsnConvert, OctetString } from "@peculiar/asn1-schema";
import {
  AlgorithmIdentifier,
  AttributeTypeAndValue,
  AttributeValue,
  AuthorityKeyIdentifier,
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  Extension,
  Extensions,
  GeneralName,
  KeyIdentifier,
  KeyUsage,
  KeyUsageFlags,
  Name,
  RelativeDistinguishedName,
  SubjectAlternativeName,
  SubjectKeyIdentifier,
  SubjectPublicKeyInfo,
  TBSCertificate,
  Validity,
  Version,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
  id_kp_serverAuth,
} from "@peculiar/asn1-x509";

// Makes X.509 certificates, which Node can read and not write. The structures and their encoding are asn1-x509's, the
// keys and signatures Node's own. That is half of what @peculiar/x509 (built on the same) adds to the bundle, and patches
// nothing into the process; main.ts loads it for `cert init` alone.

const dayMs = 86_400_000;
/** Clocks of devices may be a little behind. */
const backdateMs = dayMs;
const authorityDays = 3_653;
/** Apple's systems take no server certificate that is good for longer (support.apple.com/HT210176). */
const serverDays = 825;

const ecdsaWithSha256 = "1.2.840.10045.4.3.2";
const commonName = "2.5.4.3";
/** RFC 5280, appendix A.1: ub-common-name. */
const maxNameLength = 64;

/** A certificate and its private key. */
export interface Issued {
  certificate: X509Certificate;
  key: KeyObject;
}

export const makeKey = (): KeyObject => generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;

/** A certification authority of its own, good for ten years, that may sign servers and no further authorities. */
export function makeAuthority({ host, now }: { host: string; now: number }): Issued {
  const key = makeKey();
  // A part of its key makes the name differ from that of an earlier one, which devices may still have.
  const suffix = keyIdOf(key).toString("hex").slice(0, 4);
  const name = toName(`lambdaiot CA ${host.slice(0, maxNameLength - 18)} ${suffix}`);
  const certificate = issue({
    subject: name,
    issuer: name,
    publicKey: key,
    signer: key,
    notBefore: now - backdateMs,
    notAfter: now - backdateMs + authorityDays * dayMs,
    extensions: [
      extension(id_ce_basicConstraints, new BasicConstraints({ cA: true, pathLenConstraint: 0 }), true),
      extension(id_ce_keyUsage, new KeyUsage(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign), true),
    ],
  });
  return { certificate, key };
}

/** A certificate for a server that is called by any of `names`, host names and addresses; the first is its subject. */
export function issueServer(
  authority: Issued,
  { key, names, now }: { key: KeyObject; names: readonly string[]; now: number },
): X509Certificate {
  const notBefore = now - backdateMs;
  const alternatives = names.map((name) => new GeneralName(isIP(name) ? { iPAddress: name } : { dNSName: name }));
  return issue({
    subject: toName((names[0] ?? "lambdaiot").slice(0, maxNameLength)),
    issuer: AsnConvert.parse(authority.certificate.raw, Certificate).tbsCertificate.subject,
    publicKey: key,
    signer: authority.key,
    notBefore,
    // The last second is in it; and it is good for nothing once its authority is not.
    notAfter: Math.min(notBefore + serverDays * dayMs - 1_000, authority.certificate.validToDate.getTime()),
    extensions: [
      extension(id_ce_basicConstraints, new BasicConstraints({ cA: false }), true),
      extension(id_ce_keyUsage, new KeyUsage(KeyUsageFlags.digitalSignature), true),
      extension(id_ce_extKeyUsage, new ExtendedKeyUsage([id_kp_serverAuth])),
      extension(id_ce_subjectAltName, new SubjectAlternativeName(alternatives)),
    ],
  });
}

interface Issue {
  subject: Name;
  issuer: Name;
  /** Whose public half is certified. */
  publicKey: KeyObject;
  signer: KeyObject;
  /** Epoch milliseconds. */
  notBefore: number;
  notAfter: number;
  extensions: Extension[];
}

function issue({ subject, issuer, publicKey, signer, notBefore, notAfter, extensions }: Issue): X509Certificate {
  const signature = new AlgorithmIdentifier({ algorithm: ecdsaWithSha256 });
  const authorityKey = new AuthorityKeyIdentifier({ keyIdentifier: new KeyIdentifier(keyIdOf(signer)) });
  const tbsCertificate = new TBSCertificate({
    version: Version.v3,
    serialNumber: toArrayBuffer(makeSerial()),
    signature,
    issuer,
    validity: new Validity({ notBefore: new Date(notBefore), notAfter: new Date(notAfter) }),
    subject,
    subjectPublicKeyInfo: AsnConvert.parse(exportPublic(publicKey), SubjectPublicKeyInfo),
    extensions: new Extensions([
      ...extensions,
      extension(id_ce_subjectKeyIdentifier, new SubjectKeyIdentifier(keyIdOf(publicKey))),
      extension(id_ce_authorityKeyIdentifier, authorityKey),
    ]),
  });
  const signatureValue = sign("sha256", Buffer.from(AsnConvert.serialize(tbsCertificate)), signer);
  const certificate = new X509Certificate(
    Buffer.from(
      AsnConvert.serialize(
        new Certificate({
          tbsCertificate,
          signatureAlgorithm: signature,
          signatureValue: toArrayBuffer(signatureValue),
        }),
      ),
    ),
  );
  if (!certificate.verify(createPublicKey(signer)) || !certificate.checkPrivateKey(publicKey))
    throw new Error("the certificate that was made is not good");
  return certificate;
}

const extension = (extnID: string, value: object, critical = false): Extension =>
  new Extension({ extnID, critical, extnValue: new OctetString(AsnConvert.serialize(value)) });

const toName = (text: string): Name =>
  new Name([
    new RelativeDistinguishedName([
      new AttributeTypeAndValue({ type: commonName, value: new AttributeValue({ utf8String: text }) }),
    ]),
  ]);

const exportPublic = (key: KeyObject): Buffer => createPublicKey(key).export({ type: "spki", format: "der" });

/** RFC 7093, section 2: a hash of the public key, cut to 160 bits. */
const keyIdOf = (key: KeyObject): Buffer => createHash("sha256").update(exportPublic(key)).digest().subarray(0, 20);

/** 16 bytes, random but for the first bits: positive, and none of them a leading zero (RFC 5280, section 4.1.2.2). */
function makeSerial(): Buffer {
  const serial = randomBytes(16);
  serial[0] = 0x40 | ((serial[0] as number) & 0x3f);
  return serial;
}

const toArrayBuffer = ({ buffer, byteOffset, length }: Buffer): ArrayBuffer =>
  buffer.slice(byteOffset, byteOffset + length) as ArrayBuffer;

import { randomBytes, scrypt, timingSafeEqual } from "node:crypto";

// scrypt as OWASP recommends it where argon2 is not at hand: 32 MiB and about half a second on a Pi.
const cost = { N: 2 ** 15, r: 8, p: 3 };
const keyLength = 32;
/** Each hash takes 32 MiB and a thread of the pool that file access needs too. */
const maxParallel = 2;

let running = 0;
const waiting: (() => void)[] = [];

async function derive(password: string, salt: Buffer, { N, r, p }: typeof cost): Promise<Buffer> {
  if (running >= maxParallel) await new Promise<void>((resolve) => waiting.push(resolve));
  else running += 1;
  try {
    return await new Promise<Buffer>((resolve, reject) => {
      scrypt(password, salt, keyLength, { N, r, p, maxmem: 256 * N * r }, (error, key) =>
        error ? reject(error) : resolve(key),
      );
    });
  } finally {
    const next = waiting.shift();
    if (next === undefined) running -= 1;
    else next(); // the place is handed on, not given up
  }
}

/** `$scrypt$ln=15,r=8,p=3$salt$hash`, so that the cost can rise later without making older hashes worthless. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(16);
  const key = await derive(password, salt, cost);
  return `$scrypt$ln=${Math.log2(cost.N)},r=${cost.r},p=${cost.p}$${salt.toString("base64")}$${key.toString("base64")}`;
}

/** Takes as long for an unknown user (`hash` undefined) as for a wrong password: neither can be told from the other. */
export async function verifyPassword(password: string, hash: string | undefined): Promise<boolean> {
  const match = /^\$scrypt\$ln=(\d+),r=(\d+),p=(\d+)\$([^$]+)\$([^$]+)$/.exec(hash ?? "");
  if (match === null) {
    await derive(password, randomBytes(16), cost);
    return false;
  }
  const [, ln, r, p, salt, key] = match as unknown as [string, string, string, string, string, string];
  const expected = Buffer.from(key, "base64");
  const actual = await derive(password, Buffer.from(salt, "base64"), {
    N: 2 ** Number(ln),
    r: Number(r),
    p: Number(p),
  });
  return actual.length === expected.length && timingSafeEqual(actual, expected);
}

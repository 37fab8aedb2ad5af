import { DomainError } from "../core/errors.ts";
import { verifyPassword } from "../core/passwords.ts";
import { findUserByLogin, type User } from "../core/users.ts";
import type { RateLimit } from "./rate-limit.ts";
import type { Call } from "./route.ts";

/**
 * Who logs in with a username or an email. A wrong name and a wrong password are alike, in text and in time.
 * @throws {DomainError} `bad_credentials`; `rate_limited` after too many failures from one address
 */
export async function logIn(
  { peer, read }: Pick<Call, "peer" | "read">,
  attempts: RateLimit,
  login: string,
  password: string,
): Promise<User> {
  attempts.spend(peer.address);
  const user = read((ctx) => findUserByLogin(ctx, login));
  if (!(await verifyPassword(password, user?.passwordHash)) || user === undefined) {
    throw new DomainError("bad_credentials", "invalid credentials");
  }
  attempts.refund(peer.address);
  return user;
}

import * as v from "valibot";
import type { Ctx } from "../../core/ctx.ts";
import { DomainError } from "../../core/errors.ts";
import { hashPassword } from "../../core/passwords.ts";
import { isPeerAllowed, type Peer } from "../../core/peers.ts";
import type { Tokens } from "../../core/tokens.ts";
import { countUsers, createUser } from "../../core/users.ts";
import { logIn } from "../login.ts";
import type { RateLimit } from "../rate-limit.ts";
import { route } from "../route.ts";
import { credentialsInput, registerInput } from "./shapes.ts";

export type RegistrationRule = "open" | "lan" | "first" | "off";

export interface AccountDeps {
  tokens: Tokens;
  attempts: RateLimit;
  registration: RegistrationRule;
}

const tag = "Accounts";

/** The local network's first user, or whoever the rule names. @throws {DomainError} `forbidden` */
function requireRegistration(rule: RegistrationRule, peer: Peer, ctx: Ctx): void {
  const isAllowed = rule === "first" ? peer.isLocal && countUsers(ctx) === 0 : isPeerAllowed(rule, peer);
  if (!isAllowed) throw new DomainError("forbidden", "registration is not allowed");
}

export const accountRoutes = ({ tokens, attempts, registration }: AccountDeps) => [
  route({
    method: "post",
    path: "/register",
    access: "public",
    tag,
    summary: "Create a user account",
    description:
      "The first user is the administrator. Whether it is allowed, and from where, is `auth.registration`'s to say.",
    body: registerInput,
    status: 201,
    response: v.object({ id: v.pipe(v.string(), v.metadata({ format: "uuid" })), username: v.string() }),
    errors: {
      403: "Forbidden: registration is not allowed from here",
      409: "Conflict: username or email already exists",
      429: "Too many attempts from this address",
    },
    async handle({ peer, read, commit }, { body: { username, password, email } }) {
      read((ctx) => requireRegistration(registration, peer, ctx));
      attempts.spend(peer.address);
      const passwordHash = await hashPassword(password);
      const user = await commit((ctx) => {
        requireRegistration(registration, peer, ctx); // somebody else may have been first meanwhile
        return createUser(ctx, { username, passwordHash, email: email === "" ? undefined : email });
      });
      return { id: user.id, username: user.username };
    },
  }),
  route({
    method: "post",
    path: "/login",
    access: "public",
    tag,
    summary: "Authenticate and receive a token",
    description: "The token is good for 24 hours. `username` may also be the account's email.",
    body: credentialsInput,
    status: 200,
    response: v.object({ token: v.string() }),
    errors: { 401: "Unauthorized: invalid credentials", 429: "Too many failed attempts from this address" },
    async handle({ peer, read }, { body: { username, password } }) {
      const user = await logIn({ peer, read }, attempts, username, password);
      return { token: await tokens.issue(user) };
    },
  }),
  route({
    method: "get",
    path: "/protected",
    tag,
    summary: "Test a token and see its claims",
    status: 200,
    response: v.object({ claims: v.looseObject({ sub: v.string(), user_id: v.string(), exp: v.number() }) }),
    handle({ claims }) {
      if (claims === undefined) throw new DomainError("unauthenticated", "no claims"); // an API key is no token
      return { claims };
    },
  }),
];

import * as v from "valibot";
import type { Actor } from "../../core/ctx.ts";
import { DomainError } from "../../core/errors.ts";
import { createApiKey, deleteApiKey, listApiKeys, type ApiKey } from "../../core/keys.ts";
import { hashPassword, verifyPassword } from "../../core/passwords.ts";
import { label, newPassword } from "../../core/schemas.ts";
import { formatInstant } from "../../core/time.ts";
import { tokenLifetimeSeconds, type Tokens } from "../../core/tokens.ts";
import { changePassword, findUser } from "../../core/users.ts";
import { logIn } from "../login.ts";
import type { RateLimit } from "../rate-limit.ts";
import { route } from "../route.ts";
import { successSchema, timestamp } from "./shapes.ts";

export interface AuthDeps {
  tokens: Tokens;
  attempts: RateLimit;
  maxApiKeys: number;
}

const tag = "Authentication";

/** The user behind a call: routes that need a token are called by nobody else. */
export function userOf(actor: Actor): Extract<Actor, { kind: "user" }> {
  if (actor.kind !== "user") throw new DomainError("forbidden", "only users may do this");
  return actor;
}

const loginInput = v.pipe(
  v.object({
    email: v.optional(
      v.pipe(
        v.string("must be a string"),
        v.description("The account's email, or its username."),
        v.examples(["user@example.com"]),
      ),
    ),
    username: v.optional(v.pipe(v.string("must be a string"), v.description("Instead of `email`."))),
    password: v.pipe(v.string("must be a string"), v.metadata({ format: "password" })),
  }),
  v.check(({ email, username }) => (email ?? username) !== undefined, "email is required"),
);

const keySchema = v.object({
  id: v.string(),
  name: v.string(),
  createdAt: timestamp,
  lastUsedAt: v.nullable(timestamp),
});

const toKey = ({ id, name, createdAt, lastUsedAt }: ApiKey) => ({
  id,
  name,
  createdAt: formatInstant(createdAt),
  lastUsedAt: lastUsedAt === null ? null : formatInstant(lastUsedAt),
});

export const authRoutes = ({ tokens, attempts, maxApiKeys }: AuthDeps) => [
  route({
    method: "post",
    path: "/auth/login",
    access: "public",
    tag,
    summary: "Authenticate and receive a token",
    description: "The token is good for 24 hours, here and at the root.",
    body: loginInput,
    status: 200,
    response: v.object({
      token: v.string(),
      expiresIn: v.number(),
      user: v.object({
        id: v.string(),
        email: v.nullable(v.string()),
        username: v.string(),
        role: v.picklist(["admin", "member"]),
      }),
    }),
    errors: { 401: "INVALID_CREDENTIALS", 429: "RATE_LIMITED: too many failed attempts from this address" },
    async handle(call, { body: { email, username, password } }) {
      const user = await logIn(call, attempts, email ?? username ?? "", password);
      return {
        token: await tokens.issue(user),
        expiresIn: tokenLifetimeSeconds,
        user: { id: user.id, email: user.email, username: user.username, role: user.role },
      };
    },
  }),
  route({
    method: "put",
    path: "/auth/password",
    tag,
    summary: "Change one's own password",
    description: "All tokens issued before are worthless from then on; API keys stay.",
    body: v.object({ currentPassword: v.string("must be a string"), newPassword }),
    status: 200,
    response: successSchema,
    errors: { 401: "INVALID_CREDENTIALS: the current password is wrong" },
    async handle({ actor, peer, read, commit }, { body: { currentPassword, newPassword } }) {
      const { id } = userOf(actor);
      attempts.spend(peer.address);
      const user = read((ctx) => findUser(ctx, id));
      if (!(await verifyPassword(currentPassword, user?.passwordHash)))
        throw new DomainError("bad_credentials", "the current password is wrong");
      attempts.refund(peer.address);
      const passwordHash = await hashPassword(newPassword);
      await commit((ctx) => changePassword(ctx, id, passwordHash));
      return { success: true } as const;
    },
  }),
  route({
    method: "get",
    path: "/api-keys",
    tag,
    summary: "List one's own API keys",
    status: 200,
    response: v.object({ apiKeys: v.array(keySchema) }),
    handle: ({ actor, read }) => ({ apiKeys: read((ctx) => listApiKeys(ctx, userOf(actor).id)).map(toKey) }),
  }),
  route({
    method: "post",
    path: "/api-keys",
    tag,
    summary: "Create an API key",
    description: "`key` is shown this once. It may do what its user may, as `Authorization: Bearer` or as `X-API-Key`.",
    body: v.object({ name: label(100) }),
    status: 201,
    response: v.object({ ...keySchema.entries, key: v.string() }),
    errors: { 409: "CONFLICT: too many keys" },
    async handle({ actor, commit }, { body: { name } }) {
      const { apiKey, key } = await commit((ctx) =>
        createApiKey(ctx, userOf(actor).id, name, { maxPerUser: maxApiKeys }),
      );
      return { ...toKey(apiKey), key };
    },
  }),
  route({
    method: "delete",
    path: "/api-keys/:keyId",
    tag,
    summary: "Delete an API key",
    params: v.object({ keyId: label(64) }),
    status: 200,
    response: successSchema,
    errors: { 404: "NOT_FOUND" },
    async handle({ actor, commit }, { params: { keyId } }) {
      await commit((ctx) => deleteApiKey(ctx, userOf(actor).id, keyId));
      return { success: true } as const;
    },
  }),
];

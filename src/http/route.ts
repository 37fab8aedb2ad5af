import type { ServerResponse } from "node:http";
import type { Context, Hono } from "hono";
import * as v from "valibot";
import type { Ctx, Domain } from "../core/ctx.ts";
import { DomainError } from "../core/errors.ts";
import { parseJson } from "../core/json.ts";
import { describeIssue } from "../core/schemas.ts";
import type { Steps } from "../steps.ts";
import type { Access, Authenticate, Caller } from "./auth.ts";

// One way for every route of either dialect: authenticate, validate, call the handler, render, and keep the route for
// the OpenAPI document. A route that says nothing about access needs a token.

/** What a handler knows of the call besides its input. It never sees Hono's context. */
export interface Call extends Caller {
  /** A header that is part of the API, such as `Idempotency-Key`. */
  header(name: string): string | undefined;
  /** HEAD in place of GET: what is answered goes nowhere but for its headers. */
  isHead: boolean;
  /** Ends the connection without another word: for a stream that nobody reads. */
  cutOff(): void;
  read<T>(verb: (ctx: Ctx) => T): T;
  /** Rejects with `GivenUpError` when whoever has asked has hung up. */
  readInSteps<T>(verb: (ctx: Ctx) => Steps<T>): Promise<T>;
  commit<T>(verb: (ctx: Ctx) => T): Promise<T>;
}

type Schema = v.GenericSchema<unknown, unknown>;
type Out<S> = S extends Schema ? v.InferOutput<S> : undefined;

export interface RouteSpec<
  P extends Schema | undefined,
  Q extends Schema | undefined,
  B extends Schema | undefined,
  R extends Schema,
> {
  method: "get" | "post" | "put" | "delete";
  /** In Hono's form, `/devices/:id`. */
  path: string;
  access?: Access;
  tag: string;
  summary: string;
  description?: string;
  params?: P;
  query?: Q;
  /** Documents the headers that the handler reads. */
  headers?: Schema;
  body?: B;
  /** What the OpenAPI document shows instead of a `body` that JSON Schema cannot say. */
  bodyDocument?: Schema;
  /** An absent body counts as `{}`. */
  isBodyOptional?: boolean;
  status: 200 | 201 | 202;
  response: R;
  /** Where the answer is not JSON. */
  contentType?: string;
  /** For answers whose status follows from what they say, such as a health check. */
  statusOf?: (result: v.InferInput<R>) => 200 | 503;
  /** Documented errors by status; 400 for input and 401 for access are added where they apply. */
  errors?: Record<number, string>;
  /** @returns what is answered, or the JSON of it, written already */
  handle(
    call: Call,
    input: { params: Out<P>; query: Out<Q>; body: Out<B> },
  ): v.InferInput<R> | Uint8Array | Promise<v.InferInput<R> | Uint8Array>;
}

/** A route whose types have done their work. */
export interface Route extends Omit<
  RouteSpec<Schema | undefined, Schema | undefined, Schema | undefined, Schema>,
  "handle" | "access" | "statusOf"
> {
  access: Access;
  statusOf?: (result: unknown) => 200 | 503;
  handle(call: Call, input: { params: unknown; query: unknown; body: unknown }): unknown;
}

export function route<
  R extends Schema,
  P extends Schema | undefined = undefined,
  Q extends Schema | undefined = undefined,
  B extends Schema | undefined = undefined,
>(spec: RouteSpec<P, Q, B, R>): Route {
  return { access: "token", ...spec } as unknown as Route;
}

/** What of an API is its own: where it stands, what it calls itself, and how it says no. */
export interface Dialect {
  title: string;
  /** What a reader of its OpenAPI document should know first. */
  description?: string;
  /** Empty for the root. */
  prefix: string;
  unauthenticated: string;
  render(error: DomainError): { status: number; body: unknown };
  /** The body of a 500: what went wrong is for the log alone. */
  internalError: unknown;
  /** The shape of every error body. */
  errorSchema: Schema;
}

export interface RouteDeps {
  domain: Domain;
  authenticate: Authenticate;
}

export function mountRoutes(app: Hono, dialect: Dialect, routes: readonly Route[], deps: RouteDeps): void {
  for (const spec of routes) {
    app.on(spec.method.toUpperCase(), dialect.prefix + spec.path, async function handleRoute(c) {
      const call = openCall(await deps.authenticate(c, spec.access, dialect), c, deps.domain);
      const params = spec.params && validate(spec.params, c.req.param());
      const query = spec.query && validate(spec.query, c.req.query());
      const body = spec.body && validate(spec.body, await readBody(c, spec.isBodyOptional === true));
      const result = await spec.handle(call, { params, query, body });
      if (result instanceof Response) {
        // Nobody would ever read the stream behind the headers, nor end it.
        if (c.req.method === "HEAD") await result.body?.cancel();
        return c.newResponse(c.req.method === "HEAD" ? null : result.body, result); // with the headers of all
      }
      const json = result instanceof Uint8Array ? (result as Uint8Array<ArrayBuffer>) : JSON.stringify(result);
      return c.body(json, spec.statusOf?.(result) ?? spec.status, {
        "Content-Type": "application/json",
      });
    });
  }
}

const outgoingOf = (c: Context): ServerResponse => (c.env as { outgoing: ServerResponse }).outgoing;

const openCall = ({ actor, peer, claims }: Caller, c: Context, domain: Domain): Call => ({
  actor,
  peer,
  claims,
  header: (name) => c.req.header(name),
  isHead: c.req.method === "HEAD",
  cutOff: () => void outgoingOf(c).destroy(),
  read: (verb) => domain.read(actor, verb),
  // Whoever has hung up may ask again, and what goes on for nobody would be in the way of that.
  readInSteps: (verb) => domain.readInSteps(actor, verb, () => !outgoingOf(c).destroyed),
  commit: (verb) => domain.commit(actor, verb),
});

function validate<S extends Schema>(schema: S, input: unknown): v.InferOutput<S> {
  // To Valibot an array is an object that has none of the keys: one whose keys are all optional would take it.
  if (Array.isArray(input) && schema.type === "object")
    throw new DomainError("invalid", "the body must be a JSON object");
  const result = v.safeParse(schema, input, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const field = v.getDotPath(issue);
  throw new DomainError("invalid", describeIssue(issue), field === null ? {} : { details: { field } });
}

async function readBody(c: Context, isOptional: boolean): Promise<unknown> {
  const text = await c.req.text();
  if (text === "" && isOptional) return {};
  const type = c.req.header("Content-Type") ?? "";
  if (!/^application\/(?:[\w.+-]+\+)?json\s*(?:;|$)/i.test(type))
    throw new DomainError("invalid", "Content-Type must be application/json");
  const value = parseJson(text);
  if (value === undefined) throw new DomainError("invalid", "invalid JSON");
  if (typeof value !== "object" || value === null) throw new DomainError("invalid", "the body must be a JSON object");
  return value;
}

import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";
import { until } from "../support/client.ts";

/** What a webhook's receiver got, as it came over the wire. */
export interface Received {
  method: string;
  path: string;
  headers: Record<string, string>;
  /** The bytes of the body, which are what is signed. */
  text: string;
  // Tests look into bodies of every shape.
  // oxlint-disable-next-line typescript/no-explicit-any
  body: any;
}

export type Answer = (request: Received, response: ServerResponse, n: number) => void;

export interface Receiver {
  url: string;
  port: number;
  received: Received[];
  /** What it answers; may be changed at any time. `n` counts requests from 1. */
  answer: Answer;
  /** The bodies of one type, in order. */
  bodies(type: string): Received["body"][];
  /** Waits until `n` requests have come. */
  count(n: number): Promise<Received[]>;
  close(): Promise<void>;
}

/** Answers with a status and nothing else. */
export const status =
  (code: number, headers: Record<string, string> = {}): Answer =>
  (_request, response) =>
    void response.writeHead(code, headers).end();

/** Takes the request and never says a word. */
export const silence: Answer = () => undefined;

/** A real HTTP server, on a free port or on `port`. */
export async function openReceiver(answer: Answer = status(204), port = 0): Promise<Receiver> {
  const received: Received[] = [];
  const receiver = { received, answer } as Receiver;
  const server = createServer((request: IncomingMessage, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const text = Buffer.concat(chunks).toString();
      const entry: Received = {
        method: request.method ?? "",
        path: request.url ?? "",
        headers: request.headers as Record<string, string>,
        text,
        body: JSON.parse(text),
      };
      received.push(entry);
      receiver.answer(entry, response, received.length);
    });
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  receiver.port = (server.address() as AddressInfo).port;
  receiver.url = `http://127.0.0.1:${receiver.port}/hook`;
  receiver.bodies = (type) => received.filter(({ body }) => body.type === type).map(({ body }) => body);
  receiver.count = (n) => until(() => received.length >= n && received);
  receiver.close = async () => {
    const closed = once(server, "close");
    server.close();
    server.closeAllConnections();
    await closed;
  };
  return receiver;
}

/** A port on which nobody listens. */
export async function findClosedPort(): Promise<number> {
  const receiver = await openReceiver();
  await receiver.close();
  return receiver.port;
}

/** Verifies as a receiver does, with the library of Standard Webhooks. @throws where the signature does not match */
export function verify({ text, headers }: Received, secret: string): unknown {
  return libraryFor(secret).verify(text, headers);
}

/** The signature that the library makes of a request: for requests of a clock that is not the library's own. */
export function signAsLibrary({ text, headers }: Received, secret: string): string {
  return libraryFor(secret).sign(
    headers["webhook-id"] ?? "",
    new Date(Number(headers["webhook-timestamp"]) * 1_000),
    text,
  );
}

const libraryFor = (secret: string): Webhook =>
  secret.startsWith("whsec_") ? new Webhook(secret) : new Webhook(Buffer.from(secret), { format: "raw" });

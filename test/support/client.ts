import mqtt, { type IClientOptions, type MqttClient } from "mqtt";

export interface Answer {
  status: number;
  headers: Headers;
  // Tests look into bodies of every shape.
  // oxlint-disable-next-line typescript/no-explicit-any
  body: any;
}

export interface Api {
  (method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
  token: string | undefined;
}

/** Calls a gateway over HTTP as any client would: JSON in and out, the token where there is one. */
export function createApi(url: string, token?: string): Api {
  const api = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) => {
    const response = await fetch(url + path, {
      method,
      headers: {
        ...(body !== undefined && { "Content-Type": "application/json" }),
        ...(api.token !== undefined && { Authorization: `Bearer ${api.token}` }),
        ...headers,
      },
      ...(body !== undefined && { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: parse(text) };
  };
  api.token = token;
  return api;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text; // a page, or nothing
  }
}

/** An API client of a new user: the gateway's first one is its administrator. */
export async function logIn(url: string, username = "admin", password = "secret123"): Promise<Api> {
  const api = createApi(url);
  await api("POST", "/register", { username, password });
  const { status, body } = await api("POST", "/login", { username, password });
  if (status !== 200) throw new Error(`cannot log in: ${JSON.stringify(body)}`);
  api.token = body.token;
  return api;
}

/** A connected MQTT client that does not reconnect by itself. */
export const connectMqtt = (url: string, options: IClientOptions = {}): Promise<MqttClient> =>
  mqtt.connectAsync(url, { reconnectPeriod: 0, connectTimeout: 5_000, ...options }, false);

export interface Listener {
  client: MqttClient;
  /** Topic and payload of every message. */
  heard: string[];
  /** QoS and payload of every message. */
  graded: string[];
}

/** Connects and hears all there is, also what follows CONNACK at once. */
export async function connectListener(url: string, options: IClientOptions = {}): Promise<Listener> {
  const heard: string[] = [];
  const graded: string[] = [];
  const client = mqtt.connect(url, { reconnectPeriod: 0, connectTimeout: 5_000, ...options });
  client.on("message", (topic, payload, { qos }) => {
    heard.push(`${topic} ${payload.toString()}`);
    graded.push(`${qos} ${payload.toString()}`);
  });
  await new Promise<void>((resolve, reject) => {
    client.once("connect", () => resolve());
    client.once("error", reject);
    client.once("close", () => reject(new Error("the connection was closed")));
  });
  client.on("error", () => undefined);
  return { client, heard, graded };
}

export interface Inbox {
  messages: { topic: string; body: Record<string, unknown> }[];
  /** Resolves with the first message, past or to come, for which `isWanted` says yes. */
  next(isWanted: (body: Record<string, unknown>, topic: string) => boolean): Promise<Record<string, unknown>>;
}

/** Subscribes, and keeps what comes. */
export async function openInbox(client: MqttClient, topic: string): Promise<Inbox> {
  const messages: Inbox["messages"] = [];
  const waiting: (() => void)[] = [];
  client.on("message", (on, payload) => {
    messages.push({ topic: on, body: JSON.parse(payload.toString()) as Record<string, unknown> });
    for (const wake of waiting.splice(0)) wake();
  });
  await client.subscribeAsync(topic, { qos: 1 });
  return {
    messages,
    async next(isWanted) {
      for (;;) {
        const found = messages.find(({ body, topic: on }) => isWanted(body, on));
        if (found !== undefined) return found.body;
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
    },
  };
}

/** Waits until `check` returns something, at most `timeoutMs`. */
export async function until<T>(
  check: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 10_000,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const result = await check();
    if (result !== undefined && result !== false) return result;
    if (Date.now() > deadline) throw new Error("waited in vain");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

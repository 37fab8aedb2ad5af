import type { IClientOptions, MqttClient } from "mqtt";
import type { CounterName } from "../../src/counters.ts";
import { createPersistence, type Persistence, type PersistenceOptions } from "../../src/mqtt/persistence.ts";
import { connectListener, connectMqtt, type Listener } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway, type StartOptions } from "../support/gateway.ts";
import { openTestStore, type TestStore } from "../support/store.ts";

// Gateways, clients and persistences for one test, which `cleanUp` ends after it.

const cleanUps: (() => unknown)[] = [];

export async function cleanUp(): Promise<void> {
  for (const end of cleanUps.splice(0).toReversed()) await end();
}

/** A gateway that may be closed before the test ends. */
export async function start(options: StartOptions = {}): Promise<LocalGateway> {
  const gateway = await startLocalGateway(options);
  let isOpen = true;
  const close = gateway.close.bind(gateway);
  gateway.close = async () => {
    if (isOpen) await close();
    isOpen = false;
  };
  cleanUps.push(() => gateway.close());
  return gateway;
}

export function newFolder(): string {
  const { folder, remove } = makeFolder();
  cleanUps.push(remove);
  return folder;
}

/** Connects with a session to keep, and hears from the first moment on. */
export async function listen(gateway: LocalGateway, options: IClientOptions = {}): Promise<Listener> {
  const listener = await connectListener(gateway.mqttUrl, { clientId: "keeper", clean: false, ...options });
  cleanUps.push(() => listener.client.end(true));
  return listener;
}

export async function connect(gateway: LocalGateway, options: IClientOptions = {}): Promise<MqttClient> {
  const client = await connectMqtt(gateway.mqttUrl, options);
  client.on("error", () => undefined);
  cleanUps.push(() => client.end(true));
  return client;
}

export const counter = (gateway: LocalGateway, name: CounterName): number => gateway.app.counters.get(name);

/** What a persistence is given by default. */
const limits = {
  maxQueued: 100,
  maxQueuedBytes: 1_000_000,
  maxSessions: 100,
  maxUnreleased: 100,
  maxUnreleasedTotal: 1_000,
  maxRetained: 100,
  maxRetainedBytes: 1_000_000,
  sessionExpiryMs: 8_000,
};

/** Opens persistences, one after the other, on one real store. */
export function openPersistence(): {
  t: TestStore;
  open: (more?: Partial<PersistenceOptions>) => Promise<Persistence>;
} {
  const t = openTestStore();
  cleanUps.push(() => t.close());
  let starts = 0;
  return {
    t,
    async open(more = {}) {
      const persistence = createPersistence({
        domain: t.domain,
        log: t.log,
        counters: t.counters,
        now: () => t.clock.at,
        ...limits,
        ...more,
      });
      await persistence.setup({ id: `b${++starts}` });
      return persistence;
    },
  };
}

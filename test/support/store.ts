import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createDomain, type Actor, type Ctx, type Domain } from "../../src/core/ctx.ts";
import { createDevice, type Device, type DeviceInput } from "../../src/core/devices.ts";
import { createComponent, type Component, type ComponentKind } from "../../src/core/components.ts";
import { createBus, type Bus, type EventMap, type EventName } from "../../src/core/events.ts";
import { createCounters, type Counters } from "../../src/counters.ts";
import { createLog, type Log } from "../../src/log.ts";
import { openStore, type Store } from "../../src/store/open.ts";

/** The domain over a real store on disk, with a clock that stands until it is set. */
export interface TestStore {
  readonly store: Store;
  readonly domain: Domain;
  readonly bus: Bus;
  log: Log;
  counters: Counters;
  folder: string;
  /** `at` is what every verb takes for the present, epoch milliseconds. */
  clock: { at: number };
  /** All lines logged until now. */
  logged: () => string;
  read<T>(verb: (ctx: Ctx) => T): T;
  commit<T>(verb: (ctx: Ctx) => T): Promise<T>;
  /** Closes the store and opens it again, as a restart of the gateway does; `store`, `domain` and `bus` are new ones. */
  reopen(): Promise<void>;
  close(): Promise<void>;
}

const system: Actor = { kind: "system" };

/** 14 January 2026, 10:00 UTC: the instant of the API document's examples. */
export const start = Date.UTC(2026, 0, 14, 10);

export function openTestStore({ maxRecentReadings }: { maxRecentReadings?: number } = {}): TestStore {
  const folder = mkdtempSync(join(tmpdir(), "lambdaiot-test-"));
  const clock = { at: start };
  let logged = "";
  const log = createLog({ level: "debug", write: (line) => void (logged += line) });
  const counters = createCounters();
  const open = () => {
    const store = openStore({
      path: join(folder, "lambdaiot.db"),
      maxPendingWrites: 100_000,
      ...(maxRecentReadings !== undefined && { maxRecentReadings }),
      log,
      counters,
    });
    const bus = createBus(log);
    return { store, bus, domain: createDomain({ store, bus, log, now: () => clock.at }) };
  };
  let parts = open();
  return {
    get store() {
      return parts.store;
    },
    get domain() {
      return parts.domain;
    },
    get bus() {
      return parts.bus;
    },
    log,
    counters,
    folder,
    clock,
    logged: () => logged,
    read: (verb) => parts.domain.read(system, verb),
    commit: (verb) => parts.domain.commit(system, verb),
    async reopen() {
      await parts.store.close();
      parts = open();
    },
    async close() {
      await parts.store.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Keeps every event of `name` that is emitted from now on. */
export function collect<K extends EventName>(bus: Bus, name: K): EventMap[K][] {
  const events: EventMap[K][] = [];
  bus.on(name, (event) => void events.push(event));
  return events;
}

export const addDevice = (ctx: Ctx, input: Partial<DeviceInput> = {}): Device =>
  createDevice(ctx, { name: "Room Sensor", description: "Living room", location: "Floor 1", statusId: 1, ...input });

/** A sensor or an actor; absent a device, with one of its own. */
export const addComponent = (ctx: Ctx, kind: ComponentKind, deviceId: string = addDevice(ctx).id): Component =>
  createComponent(ctx, kind, { deviceId, name: "Temperature", type: "temperature", dataTypeId: 2 });

/** Rows of a table, as many as there are, whoever they belong to. */
export const countRows = ({ store }: TestStore, table: string): number =>
  store.db.$client.prepare<[], number>(`SELECT count(*) FROM ${table}`).pluck().get() ?? 0;

/** All readings that are kept, whether anybody gets to see them or not. */
export const countReadings = ({ store }: TestStore): number => store.readings.after(0, Number.MAX_SAFE_INTEGER).length;

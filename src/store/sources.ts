import type { Database } from "better-sqlite3";
import { lastSeenSql } from "./sightings.ts";
import { watchChanges } from "./watch.ts";

// Where readings come from: each names a sensor, and what is to be known of it and its device is kept in memory.

/** What the hot path needs of a device. */
export interface SourceDevice {
  pk: number;
  /** The UUID. */
  id: string;
  /** The id that /v1 shows. */
  displayId: string;
  statusId: number;
  lastSeenAt: number | null;
  tokenHash: string | null;
}

export interface Source {
  sensorPk: number;
  /** Its readings before this instant are out of reach (see core/retention). */
  droppedBefore: number;
  device: SourceDevice;
}

export interface Sources {
  /** The sensor of that UUID, lower case, and its device. */
  find(sensorId: string): Source | undefined;
  /** After a rollback: what was read in the transaction may never have been. */
  forget(): void;
}

/** Before every instant that a reading can have. */
export const firstInstant = Number.MIN_SAFE_INTEGER;

/** More sensors than a gateway has; memory stays bounded whatever happens. */
const maxKept = 20_000;

export function createSources(sqlite: Database): Sources {
  const find = sqlite.prepare<[id: string], Omit<Source, "device"> & SourceDevice>(
    // The `+` keeps the planner from planning anew for each value.
    `SELECT sensors.pk AS sensorPk, coalesce(sensors.dropped_before, ${firstInstant}) AS droppedBefore,
       devices.pk, devices.id, coalesce(devices.external_id, devices.id) AS displayId,
       devices.status_id AS statusId, ${lastSeenSql} AS lastSeenAt, devices.token_hash AS tokenHash
     FROM sensors JOIN devices ON devices.pk = sensors.device_pk WHERE sensors.id = +?`,
  );
  const kept = new Map<string, Source>();
  const devices = new Map<number, SourceDevice>();

  function forget(): void {
    kept.clear();
    devices.clear();
  }

  // The time of the last sign of life changes each second, and is kept up by whoever changes it (see core/sightings).
  const { refresh } = watchChanges(
    sqlite,
    [
      "UPDATE OF id, external_id, status_id, token_hash ON main.devices",
      "DELETE ON main.devices",
      "UPDATE OF id, device_pk, dropped_before ON main.sensors",
      "DELETE ON main.sensors",
    ],
    forget,
  );

  return {
    find(sensorId) {
      refresh();
      const known = kept.get(sensorId);
      if (known !== undefined) return known;
      const row = find.get(sensorId);
      if (row === undefined) return undefined;
      if (kept.size >= maxKept) forget();
      const { sensorPk, droppedBefore, ...own } = row;
      // Its sensors share what is known of a device.
      const device = devices.get(own.pk) ?? own;
      devices.set(own.pk, device);
      const source = { sensorPk, droppedBefore, device };
      kept.set(sensorId, source);
      return source;
    },
    forget,
  };
}

import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { connectMqtt, logIn, until } from "../support/client.ts";
import { bundle, makeFolder, startBuiltGateway } from "../support/gateway.ts";
import { findEarly, parseTrace, puback, type Acknowledgement } from "./trace.ts";

const traced = "trace=fsync,fdatasync,write,writev,sendto,sendmsg,pwrite64,pwritev";
// -D: the gateway, not strace, is the process that the test starts and stops.
const strace = ["strace", "-D", "-f", "-y", "-xx", "-s", "8192", "-e", "signal=none", "-e", traced, "-o"];

const canTrace = spawnSync("strace", ["-o", "/dev/null", "true"]).status === 0;
const skipped = canTrace ? "" : " (skipped: no strace, or no right to trace)";

/** Readings over MQTT and REST, from several connections at once, to a gateway that strace watches. */
async function traceReadings(file: string): Promise<{ early: string[]; count: number }> {
  const { folder, remove } = makeFolder();
  const trace = join(folder, "trace.txt");
  const gateway = await startBuiltGateway({ folder, command: [...strace, trace, process.execPath, file] });
  try {
    const api = await logIn(gateway.url);
    const device = await api("POST", "/devices", { name: "d", description: "", location: "", status_id: 1 });
    const input = { device_id: device.body.id as string, name: "s", type: "t", data_type_id: 2 };
    const { body: sensor } = await api("POST", "/sensors", input);
    const acknowledged: Acknowledgement[] = [];
    const reading = (count: number) => ({
      sensor_id: sensor.id as string,
      value: Math.random(),
      ...(count % 2 === 1 && { value_at: new Date().toISOString() }),
    });
    const devices = [1, 2, 3, 4].map(async (device) => {
      let packetId = device * 1_000;
      const client = await connectMqtt(gateway.mqttUrl, {
        messageIdProvider: {
          allocate: () => ++packetId,
          getLastAllocated: () => packetId,
          register: () => true,
          deallocate: () => undefined,
          clear: () => undefined,
        },
      });
      for (let round = 0; round < 10; round++) {
        // One alone, and four that share a commit with each other and with what comes from elsewhere.
        const together = Array.from({ length: round % 2 === 0 ? 1 : 4 }, (_, i) => {
          const body = reading(i);
          const sent = client.publishAsync("lambdaiot", JSON.stringify({ type: "sensor_reading", ...body }), {
            qos: 1,
          });
          const sign = puback(packetId);
          return sent.then(() => acknowledged.push({ value: body.value, sign }));
        });
        await Promise.all(together);
      }
      await client.endAsync();
    });
    const users = [1, 2].map(async () => {
      for (let count = 0; count < 10; count++) {
        const body = reading(count);
        const { status, body: created } = await api("POST", "/sensor-readings", body);
        expect(status).toBe(201);
        acknowledged.push({ value: body.value, sign: Buffer.from(`{"id":${created.id}}`) });
      }
    });
    await Promise.all([...devices, ...users]);
    expect(await gateway.stop()).toBe(0);
    // strace ends after the gateway.
    const text = await until(() => {
      const written = readFileSync(trace, "utf8");
      return written.includes("+++ exited with 0 +++") && written;
    });
    return { early: findEarly(parseTrace(text), acknowledged), count: acknowledged.length };
  } finally {
    await gateway.stop("SIGKILL");
    remove();
  }
}

describe("what the system calls say", () => {
  test.skipIf(!canTrace)(`no PUBACK and no 201 leaves before the log is synced${skipped}`, async () => {
    const { early, count } = await traceReadings(bundle);
    expect(early).toEqual([]);
    expect(count).toBe(4 * (5 * 1 + 5 * 4) + 2 * 10);
    console.log(`${count} acknowledgements, each after the sync of its reading's commit`);
  });

  test.skipIf(!canTrace)(`a gateway that does not sync its commits would be caught${skipped}`, async () => {
    const { folder, remove } = makeFolder();
    try {
      const text = readFileSync(bundle, "utf8");
      const waits = /fdatasync\d*\(\w+, ?(\w+)\)/g;
      expect(text.match(waits)).toHaveLength(1);
      const careless = join(folder, "careless.mjs");
      writeFileSync(careless, text.replace(waits, "$1(null)"));
      const { early, count } = await traceReadings(careless);
      expect(early).toHaveLength(count);
      expect(early[0]).toContain("before the log was synced");
    } finally {
      remove();
    }
  });
});

describe("the reading of a trace", () => {
  const value = 0.1234567890123;
  const hex = (bytes: Buffer): string => [...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  const carrying = Buffer.alloc(4_096);
  carrying.writeDoubleLE(value, 1_000);
  const frame = (isLast: boolean): Buffer => {
    const header = Buffer.alloc(24);
    header.writeUInt32BE(isLast ? 12 : 0, 4);
    return header;
  };
  const wal = hex(Buffer.from("/data/lambdaiot.db-wal"));
  const socket = hex(Buffer.from("socket:[4711]"));
  const write = (bytes: Buffer) => `100 pwrite64(21<${wal}>, "${hex(bytes)}", ${bytes.length}, 32) = ${bytes.length}`;
  const sync = `100 fdatasync(21<${wal}>)           = 0`;
  const ack = `100 writev(25<${socket}>, [{iov_base="\\x40", iov_len=1}, {iov_base="\\x02\\x03\\xe9", iov_len=3}], 2) = 4`;
  const reading = [write(frame(false)), write(carrying), write(frame(true)), write(Buffer.alloc(4_096))];
  const check = (...lines: string[]) => findEarly(parseTrace(lines.join("\n")), [{ value, sign: puback(1_001) }]);

  test("accepts a sync between the commit and its acknowledgement", () => {
    expect(check(...reading, sync, ack)).toEqual([]);
    expect(check(write(frame(true)), write(carrying), sync, ack)).toEqual([]);
  });

  test.each([
    ["no sync at all", [...reading, ack]],
    ["a sync after the acknowledgement", [...reading, ack, sync]],
    ["a sync before the transaction's last page", [...reading.slice(0, 2), sync, ...reading.slice(2), ack, sync]],
    ["a sync of something else", [...reading, sync.replace(wal, hex(Buffer.from("/data/lambdaiot.db"))), ack]],
    ["a sync that failed", [...reading, sync.replace("= 0", "= -1 EIO (Input/output error)"), ack]],
    [
      "a sync that another thread has not finished",
      [...reading, `101 fdatasync(21<${wal}> <unfinished ...>`, ack, "101 <... fdatasync resumed>) = 0"],
    ],
    ["no end of the transaction", [...reading.slice(0, 2), sync, ack]],
    ["no reading in the log", [write(frame(true)), write(Buffer.alloc(4_096)), sync, ack]],
    ["no acknowledgement", [...reading, sync]],
  ])("refuses %s", (_, lines) => {
    expect(check(...lines)).toHaveLength(1);
  });

  test("puts a call together that another thread interrupted", () => {
    const interrupted = [`101 fdatasync(21<${wal}> <unfinished ...>`, "101 <... fdatasync resumed>) = 0"];
    expect(check(...reading, ...interrupted, ack)).toEqual([]);
  });
});

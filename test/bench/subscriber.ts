// The usual way beside a broker: a subscriber with mqtt.js that writes what it hears into SQLite, in batches.
//
//   subscriber.ts BROKER_URL TOPIC FILE        FILE may have readings already
import Sqlite from "better-sqlite3";
import mqtt from "mqtt";

const [, , url = "", topic = "", file = ""] = process.argv;
const maxBatch = 500;
const maxWaitMs = 100;

const sqlite = new Sqlite(file);
sqlite.pragma("journal_mode = WAL");
sqlite.pragma("synchronous = FULL");
sqlite.exec(
  `CREATE TABLE IF NOT EXISTS readings (id INTEGER PRIMARY KEY, sensor_id TEXT NOT NULL, value_at TEXT NOT NULL, value REAL NOT NULL);
   CREATE INDEX IF NOT EXISTS readings_sensor_time ON readings (sensor_id, value_at)`,
);
const insert = sqlite.prepare<[string, string, number]>(
  "INSERT INTO readings (sensor_id, value_at, value) VALUES (?, ?, ?)",
);

interface Message {
  sensor_id: string;
  value: number;
  value_at?: string;
}

let batch: Message[] = [];
let timer: NodeJS.Timeout | undefined;
let stored = 0;

const insertAll = sqlite.transaction((messages: Message[]) => {
  for (const { sensor_id, value_at, value } of messages)
    insert.run(sensor_id, value_at ?? new Date().toISOString(), value);
});

function flush(): void {
  clearTimeout(timer);
  timer = undefined;
  insertAll(batch);
  stored += batch.length;
  batch = [];
  process.send?.(stored);
}

const client = mqtt.connect(url);
client.on("message", (_topic, payload) => {
  batch.push(JSON.parse(payload.toString()) as Message);
  if (batch.length >= maxBatch) flush();
  else timer ??= setTimeout(flush, maxWaitMs);
});
await client.subscribeAsync(topic, { qos: 1 });
const end = (): void => {
  if (batch.length > 0) flush();
  sqlite.close(); // carries the write-ahead log over
  process.exit();
};
process.once("SIGTERM", end);
process.once("disconnect", end);
process.send?.(0);

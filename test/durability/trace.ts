// Reads what `strace -f -y -xx` has written down, and finds acknowledgements that left before the disk had the reading.

export interface SystemCall {
  name: string;
  /** The file or socket behind the descriptor. */
  file: string;
  /** What was written, as far as strace kept it. */
  bytes: Buffer;
  /** Places in the trace: a call that another thread interrupts begins and ends on different lines. */
  startedAt: number;
  endedAt: number;
}

const callPattern = /^(\d+) +(\w+)\((.*)$/;
const resumedPattern = /^(\d+) +<\.\.\. (\w+) resumed>/;

/** Every call that has ended, in the order of their beginnings. Calls that failed count for nothing and are left out. */
export function parseTrace(text: string): SystemCall[] {
  const calls: SystemCall[] = [];
  const unfinished = new Map<string, { name: string; rest: string; startedAt: number }>();
  const take = (name: string, rest: string, startedAt: number, endedAt: number): void => {
    if (/ = -\d+ E[A-Z]+/.test(rest)) return;
    const file = /^\d+<([^>]*)>/.exec(rest)?.[1] ?? "";
    const chunks = [...rest.matchAll(/"([^"]*)"/g)].map(([, chunk = ""]) => unescape(chunk));
    calls.push({ name, file: unescape(file).toString(), bytes: Buffer.concat(chunks), startedAt, endedAt });
  };
  for (const [at, line] of text.split("\n").entries()) {
    const resumed = resumedPattern.exec(line);
    const [, thread = "", name = "", rest = ""] = resumed ?? callPattern.exec(line) ?? [];
    if (resumed !== null) {
      const begun = unfinished.get(`${thread} ${name}`);
      unfinished.delete(`${thread} ${name}`);
      if (begun !== undefined) take(name, begun.rest + line.slice(resumed[0].length), begun.startedAt, at);
    } else if (line.endsWith("<unfinished ...>")) unfinished.set(`${thread} ${name}`, { name, rest, startedAt: at });
    else if (name !== "") take(name, rest, at, at);
  }
  return calls.toSorted((a, b) => a.startedAt - b.startedAt);
}

/** `\x2f\x74` and plain characters, as strace writes both. */
const unescape = (text: string): Buffer =>
  Buffer.from(
    text.replaceAll(/\\x([0-9a-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16))),
    "latin1",
  );

export interface Acknowledgement {
  /** The reading's value: its eight bytes are what tells which page of the log carries it. */
  value: number;
  /** Bytes of the answer that no other one has. */
  sign: Buffer;
}

/** A PUBACK [MQTT-3.4]: packet identifiers must differ between connections to tell them apart. */
export const puback = (packetId: number): Buffer => Buffer.from([0x40, 0x02, packetId >> 8, packetId & 0xff]);

const syncs = new Set(["fsync", "fdatasync"]);
const isSocket = ({ file }: SystemCall): boolean => /^(?:socket|TCP|TCPv6):/.test(file);
const isLog = ({ file }: SystemCall): boolean => file.endsWith("-wal");

/**
 * What is wrong with each acknowledgement; nothing where each left after a sync that followed the commit that carries its
 * reading. SQLite writes a page of the log as a header of 24 bytes, whose second word is not zero at the end of a
 * transaction, and the page itself (sqlite.org/fileformat2.html, section 4.1).
 */
export function findEarly(calls: readonly SystemCall[], acknowledgements: readonly Acknowledgement[]): string[] {
  const answers = calls.filter((call) => isSocket(call) && !syncs.has(call.name));
  const writes = calls.filter((call) => isLog(call) && !syncs.has(call.name));
  const logSyncs = calls.filter((call) => isLog(call) && syncs.has(call.name));
  return acknowledgements.flatMap(({ value, sign }) => {
    const pattern = Buffer.alloc(8);
    pattern.writeDoubleLE(value);
    const answer = answers.find(({ bytes }) => bytes.includes(sign));
    if (answer === undefined) return [`${value}: no acknowledgement in the trace`];
    const page = writes.findIndex(({ bytes }) => bytes.includes(pattern));
    if (page === -1) return [`${value}: acknowledged, and not in the log`];
    const end = writes.findIndex(({ bytes }, i) => i >= page - 1 && bytes.length === 24 && bytes.readUInt32BE(4) !== 0);
    const committed = end === -1 ? undefined : writes[end + 1];
    if (committed === undefined) return [`${value}: acknowledged, and not committed`];
    const sync = logSyncs.find(({ startedAt }) => startedAt > committed.endedAt);
    if (sync === undefined || sync.endedAt >= answer.startedAt)
      return [`${value}: acknowledged on line ${answer.startedAt}, before the log was synced`];
    return [];
  });
}

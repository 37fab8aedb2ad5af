// One line per event: time, level, message, then `key=value` pairs. Readable in a terminal, easy to cut for a script.

const levels = { debug: 0, info: 1, warn: 2, error: 3 } as const;

export type LogLevel = keyof typeof levels;
export const logLevels = Object.keys(levels) as LogLevel[];

export type LogFields = Record<string, unknown>;

export interface Log {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /**
   * Warns at most once a minute for each `key`, and says then how many were held back: a device that sends nonsense
   * ten times a second must not wear out an SD card.
   */
  sampled(key: string, message: string, fields?: LogFields): void;
}

export interface LogOptions {
  level: LogLevel;
  /** Takes one finished line, newline included. */
  write: (line: string) => void;
  now?: () => number;
}

const maxValueLength = 256;
const sampleIntervalMs = 60_000;
const maxSampleKeys = 1_000;
const secretField = /authorization|password|secret|token/i;

/** Quoted where it would not read as one word; control characters never reach the terminal. */
function formatValue(key: string, value: unknown): string {
  if (secretField.test(key)) return "***";
  const text =
    value instanceof Error ? value.message : typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  const cut = text.length > maxValueLength ? `${text.slice(0, maxValueLength)}…` : text;
  if (/^[\w./:@+,[\]-]+$/.test(cut)) return cut;
  // JSON leaves DEL, the C1 controls and the Unicode line ends as they are; terminals take some of them for commands.
  return JSON.stringify(cut).replaceAll(
    /[\x7f-\x9f\u2028\u2029]/g,
    (control) => `\\u${control.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

export function createLog({ level, write, now = Date.now }: LogOptions): Log {
  const threshold = levels[level];
  const samples = new Map<string, { since: number; held: number }>();

  function emit(at: LogLevel, message: string, fields: LogFields = {}): void {
    if (levels[at] < threshold) return;
    let line = `${new Date(now()).toISOString()} ${at.padEnd(5)} ${message}`;
    for (const [key, value] of Object.entries(fields)) {
      if (value !== undefined) line += ` ${key}=${formatValue(key, value)}`;
    }
    write(`${line}\n`);
  }

  return {
    debug: (message, fields) => emit("debug", message, fields),
    info: (message, fields) => emit("info", message, fields),
    warn: (message, fields) => emit("warn", message, fields),
    error: (message, fields) => emit("error", message, fields),
    sampled(key, message, fields) {
      const at = now();
      const sample = samples.get(key);
      if (sample !== undefined && Math.abs(at - sample.since) < sampleIntervalMs) {
        sample.held += 1;
        return;
      }
      if (sample === undefined && samples.size >= maxSampleKeys) samples.clear();
      samples.set(key, { since: at, held: 0 });
      emit("warn", message, sample !== undefined && sample.held > 0 ? { ...fields, heldBack: sample.held } : fields);
    },
  };
}

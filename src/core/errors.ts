// What can go wrong in the domain, by kind. HTTP numbers and error bodies belong to the dialects.

export type ErrorCode =
  | "invalid" // the input breaks a rule
  | "unauthenticated" // nobody, or a token that is not good
  | "bad_credentials" // a login with a name or a password that is wrong
  | "forbidden" // known, and not allowed
  | "not_found"
  | "conflict" // already taken
  | "too_large"
  | "rate_limited"
  | "quota_exceeded" // what was bought is used up
  | "unavailable"; // not now: the store does not take it

/** An error whose message is meant for whoever made the call. */
export class DomainError extends Error {
  readonly code: ErrorCode;
  /** Seconds after which trying again makes sense, with `rate_limited` and `unavailable`. */
  readonly retryAfterSeconds: number | undefined;
  /** What a program may want to know besides: which field it was. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; retryAfterSeconds?: number; details?: Record<string, unknown> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "DomainError";
    this.code = code;
    this.retryAfterSeconds = options.retryAfterSeconds;
    this.details = options.details ?? {};
  }
}

/** There is no room on the disk for more readings. What asks for it is told to come back. */
export class NoRoomError extends DomainError {
  constructor() {
    super("unavailable", "the disk is nearly full: no readings are stored until there is room", {
      retryAfterSeconds: 30,
    });
  }
}

/** The store has what was asked for, and not whether the disk has it: not acknowledged, and not undone either. */
export class DoubtError extends DomainError {}

/** A mistake that stops the start or a command: shown as its message alone, without a stack. */
export class StartError extends Error {
  /** The process's exit code: 2 for a mistake in configuration or usage, 1 for anything else. */
  readonly exitCode: 1 | 2;

  constructor(message: string, exitCode: 1 | 2 = 1) {
    super(message);
    this.name = "StartError";
    this.exitCode = exitCode;
  }
}

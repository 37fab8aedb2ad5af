import * as v from "valibot";
import { parseUuid } from "./ids.ts";
import { parseInstant } from "./time.ts";

// What input looks like, wherever it comes from. Messages follow the name of the field: "value must be …".

/** Some of the fields of `T`: what an update gives. */
export type Patch<T> = { [K in keyof T]?: T[K] | undefined };

/**
 * A schema that keeps what `parse` makes of a string, and refuses what it makes `undefined` of. `documented`: what the
 * OpenAPI document says of the string.
 */
export const parsed = <T>(
  parse: (text: string) => T | undefined,
  message: string,
  documented: Record<string, unknown> = {},
) =>
  v.pipe(
    v.string(message),
    v.metadata(documented),
    v.rawTransform<string, T>(({ dataset, addIssue, NEVER }) => {
      const value = parse(dataset.value);
      if (value !== undefined) return value;
      addIssue({ message });
      return NEVER;
    }),
  );

/** A whole number as a query has it, in digits; what is above `max` counts as `max`. */
export const countText = (max: number, documented: Record<string, unknown> = {}) =>
  parsed(
    (digits) => (/^\d+$/.test(digits) ? Math.min(Number(digits), max) : undefined),
    "must be a whole number, 0 or more",
    documented,
  );

/** A UUID of any version, in lower case afterwards. */
export const uuid = (message = "must be a UUID") => parsed(parseUuid, message, { format: "uuid" });

/** Epoch milliseconds of an RFC 3339 date-time. */
export const instant = parsed(parseInstant, "must be an RFC 3339 time, such as 2026-01-14T10:00:00Z", {
  format: "date-time",
  examples: ["2026-01-14T10:00:00Z"],
});

export const text = (max: number) =>
  v.pipe(v.string("must be a string"), v.maxLength(max, `must not be longer than ${max} characters`));

/** A text that says something. */
export const label = (max: number) => v.pipe(text(max), v.nonEmpty("must not be empty"));

export const integer = (min: number, max = Number.MAX_SAFE_INTEGER) => {
  const message =
    max === Number.MAX_SAFE_INTEGER
      ? `must be an integer of ${min} or more`
      : `must be an integer from ${min} to ${max}`;
  return v.pipe(v.number(message), v.integer(message), v.minValue(min, message), v.maxValue(max, message));
};

/** A password that somebody chooses. */
export const newPassword = v.pipe(
  v.string("must be a string"),
  v.minGraphemes(6, "must have 6 characters or more"),
  v.maxBytes(128, "must not be longer than 128 bytes"),
  v.metadata({
    minLength: 6,
    maxLength: 128,
    format: "password",
    description: "At most 128 bytes in UTF-8",
    examples: ["secret123"],
  }),
);

/** JSON's `1e999` parses to Infinity. Minus zero becomes zero. */
export const finiteNumber = v.pipe(
  v.number("must be a number"),
  v.finite("must be a finite number"),
  v.examples([22.5]),
  v.transform((value) => value + 0),
);

/** What is wrong first, in one line for whoever sent it. */
export function describeIssue(issue: v.BaseIssue<unknown>): string {
  const path = v.getDotPath(issue);
  if (path === null) return issue.message;
  // A key that is missing is reported by the object, not by the key's own schema.
  return issue.input === undefined && issue.kind === "schema" ? `${path} is required` : `${path} ${issue.message}`;
}

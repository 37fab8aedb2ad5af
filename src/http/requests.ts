import type { ServerResponse } from "node:http";

// How many requests were answered, and how: by the API that they were for and the class of their status, and by nothing
// that a caller could make more of.

export const dialects = ["root", "v1", "other"] as const;
const classes = ["2xx", "3xx", "4xx", "5xx", "none"] as const;

export interface RequestCount {
  dialect: (typeof dialects)[number];
  /** `none`: whoever asked has hung up before the answer began. */
  status: (typeof classes)[number];
  count: number;
}

export interface Requests {
  begin(): void;
  /** To be told once for each that has begun, when its connection is done with it. */
  end(url: string | undefined, response: ServerResponse): void;
  underWay(): number;
  counts(): RequestCount[];
}

/** What is neither API's: pages, documents, metrics. */
const otherPath = /^\/(?:v1\/openapi\.json|openapi\.json|docs(?:\/.*)?|metrics)(?:\?|$)/;

function dialectOf(url: string): RequestCount["dialect"] {
  if (otherPath.test(url)) return "other";
  return /^\/v1(?:[/?]|$)/.test(url) ? "v1" : "root";
}

export function createRequests(): Requests {
  const counts = dialects.flatMap((dialect) => classes.map((status): RequestCount => ({ dialect, status, count: 0 })));
  let underWay = 0;
  return {
    begin: () => void (underWay += 1),
    end(url = "", response) {
      underWay -= 1;
      const status = response.headersSent ? Math.floor(response.statusCode / 100) - 2 : classes.length - 1;
      const found = counts[dialects.indexOf(dialectOf(url)) * classes.length + status];
      if (found !== undefined) found.count += 1;
    },
    underWay: () => underWay,
    counts: () => counts.map((entry) => ({ ...entry })),
  };
}

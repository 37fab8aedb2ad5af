import * as v from "valibot";
import { displayIdOf, getAnyDevice } from "../../core/devices.ts";
import { label } from "../../core/schemas.ts";
import type { Live } from "../live.ts";
import { route } from "../route.ts";

export const liveRoutes = ({ live }: { live: Live }) => [
  route({
    method: "get",
    path: "/live",
    tag: "Live",
    summary: "Listen to readings, status changes and alerts as they come",
    description:
      "Server-sent events: `reading`, `status`, `alert.triggered`, `alert.resolved`, each with a JSON object as data. A client that reads too slowly is cut off.",
    query: v.object({ device: v.optional(v.pipe(label(64), v.description("Only this device's events"))) }),
    status: 200,
    response: v.pipe(v.unknown(), v.metadata({ type: "string", examples: ["event: reading\ndata: {…}\n\n"] })),
    contentType: "text/event-stream",
    errors: { 404: "NOT_FOUND: no such device", 503: "UNAVAILABLE: too many clients" },
    handle: ({ read, cutOff }, { query: { device } }) =>
      live.open(device === undefined ? undefined : displayIdOf(read((ctx) => getAnyDevice(ctx, device))), cutOff),
  }),
];

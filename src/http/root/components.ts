import * as v from "valibot";
import type { PublishCommand } from "../../core/commands.ts";
import { triggerSensor, writeActor } from "../../core/commands.ts";
import {
  createComponent,
  deleteComponent,
  getComponent,
  listComponents,
  updateComponent,
  type ComponentInput,
  type ComponentKind,
} from "../../core/components.ts";
import { label, type Patch } from "../../core/schemas.ts";
import { route, type Route } from "../route.ts";
import {
  actorParams,
  componentInput,
  componentSchemas,
  idSchema,
  messageSchema,
  publishedSchema,
  sensorInput,
  sensorParams,
  toComponent,
} from "./shapes.ts";

const fromInput = ({
  device_id,
  data_type_id,
  retention_days,
  ...fields
}: Patch<v.InferOutput<typeof sensorInput>>): Patch<ComponentInput> => ({
  ...fields,
  ...(device_id !== undefined && { deviceId: device_id }),
  ...(data_type_id !== undefined && { dataTypeId: data_type_id }),
  ...(retention_days !== undefined && { retentionDays: retention_days }),
});

/** The five routes that sensors and actors have in common. */
function crudRoutes(kind: ComponentKind): Route[] {
  const tag = kind === "sensor" ? "Sensors" : "Actors";
  const params = kind === "sensor" ? sensorParams : actorParams;
  const path = `/${kind}s`;
  const errors = { 404: `Not Found: ${kind} not found` };
  const input = kind === "sensor" ? sensorInput : componentInput;
  return [
    route({
      method: "post",
      path,
      tag,
      summary: `Create a new ${kind} for a device`,
      body: input,
      status: 201,
      response: idSchema,
      async handle({ commit }, { body }) {
        const { id } = await commit((ctx) => createComponent(ctx, kind, fromInput(body) as ComponentInput));
        return { id };
      },
    }),
    route({
      method: "get",
      path,
      tag,
      summary: `List all ${kind}s`,
      description: "Oldest first.",
      status: 200,
      response: v.array(componentSchemas[kind]),
      handle: ({ read }) => read((ctx) => listComponents(ctx, kind)).map(toComponent),
    }),
    route({
      method: "get",
      path: `${path}/:id`,
      tag,
      summary: `Get one ${kind}`,
      params,
      status: 200,
      response: componentSchemas[kind],
      errors,
      handle: ({ read }, { params: { id } }) => toComponent(read((ctx) => getComponent(ctx, kind, id))),
    }),
    route({
      method: "put",
      path: `${path}/:id`,
      tag,
      summary: `Update one ${kind}`,
      description: "All fields are optional. What is set here stays when the device announces itself again.",
      params,
      body: kind === "sensor" ? v.partial(sensorInput) : v.partial(componentInput),
      status: 200,
      response: messageSchema,
      errors,
      async handle({ commit }, { params: { id }, body }) {
        await commit((ctx) => updateComponent(ctx, kind, id, fromInput(body)));
        return { message: `${kind} updated` };
      },
    }),
    route({
      method: "delete",
      path: `${path}/:id`,
      tag,
      summary: `Delete one ${kind}`,
      params,
      status: 200,
      response: messageSchema,
      errors,
      async handle({ commit }, { params: { id } }) {
        await commit((ctx) => deleteComponent(ctx, kind, id));
        return { message: `${kind} deleted` };
      },
    }),
  ];
}

const commandDescription =
  "Answers 202 once the broker has the message, whether or not the device is there to receive it.";

export const sensorRoutes = ({ publish }: { publish: PublishCommand }): Route[] => [
  ...crudRoutes("sensor"),
  route({
    method: "post",
    path: "/sensors/:id/trigger",
    tag: "Sensors",
    summary: "Request a new reading from a sensor via MQTT",
    description: commandDescription,
    params: sensorParams,
    body: v.object({ action: v.optional(label(255), "read") }),
    isBodyOptional: true,
    status: 202,
    response: publishedSchema,
    errors: { 404: "Not Found: sensor not found", 500: "Failed to publish to MQTT" },
    async handle({ read }, { params: { id }, body: { action } }) {
      const topic = await publish(read((ctx) => triggerSensor(ctx, id, action)));
      return { status: "published", topic } as const;
    },
  }),
];

export const actorRoutes = ({ publish }: { publish: PublishCommand }): Route[] => [
  ...crudRoutes("actor"),
  route({
    method: "post",
    path: "/actors/:id/write",
    tag: "Actors",
    summary: "Send a command to an actor via MQTT",
    description: commandDescription,
    params: actorParams,
    body: v.object({
      action: v.pipe(label(255), v.examples(["set"])),
      value: v.optional(v.pipe(v.unknown(), v.metadata({ description: "Any JSON value", examples: [true] }))),
    }),
    status: 202,
    response: publishedSchema,
    errors: { 404: "Not Found: actor not found", 500: "Failed to publish to MQTT" },
    async handle({ read }, { params: { id }, body }) {
      const topic = await publish(read((ctx) => writeActor(ctx, id, body)));
      return { status: "published", topic } as const;
    },
  }),
];

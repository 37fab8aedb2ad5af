import * as v from "valibot";
import {
  createDevice,
  deleteDevice,
  getDevice,
  listDevices,
  updateDevice,
  type DeviceInput,
} from "../../core/devices.ts";
import type { Patch } from "../../core/schemas.ts";
import { route } from "../route.ts";
import { deviceInput, deviceParams, deviceSchema, idSchema, messageSchema, toDevice } from "./shapes.ts";

const tag = "Devices";
const errors = { 404: "Not Found: device not found" };

const fromInput = ({ status_id, ...fields }: Patch<v.InferOutput<typeof deviceInput>>): Patch<DeviceInput> => ({
  ...fields,
  ...(status_id !== undefined && { statusId: status_id }),
});

export const deviceRoutes = () => [
  route({
    method: "get",
    path: "/devices",
    access: "public-devices",
    tag,
    summary: "List all devices",
    description:
      "Oldest first. Without a token only where `auth.public_devices` allows it, by default on the local network.",
    status: 200,
    response: v.array(deviceSchema),
    errors: { 403: "Forbidden: not public from this address" },
    handle: ({ read }) => read(listDevices).map(toDevice),
  }),
  route({
    method: "post",
    path: "/devices",
    tag,
    summary: "Create a device",
    body: deviceInput,
    status: 201,
    response: idSchema,
    async handle({ commit }, { body }) {
      const { id } = await commit((ctx) => createDevice(ctx, fromInput(body) as DeviceInput));
      return { id };
    },
  }),
  route({
    method: "get",
    path: "/devices/:id",
    tag,
    summary: "Get a device",
    params: deviceParams,
    status: 200,
    response: deviceSchema,
    errors,
    handle: ({ read }, { params }) => toDevice(read((ctx) => getDevice(ctx, params.id))),
  }),
  route({
    method: "put",
    path: "/devices/:id",
    tag,
    summary: "Update a device",
    description: "All fields are optional. What is set here stays when the device announces itself again.",
    params: deviceParams,
    body: v.partial(deviceInput),
    status: 200,
    response: messageSchema,
    errors,
    async handle({ commit }, { params, body }) {
      await commit((ctx) => updateDevice(ctx, params.id, fromInput(body)));
      return { message: "device updated" };
    },
  }),
  route({
    method: "delete",
    path: "/devices/:id",
    tag,
    summary: "Delete a device with its sensors, actors and readings",
    params: deviceParams,
    status: 200,
    response: messageSchema,
    errors,
    async handle({ commit }, { params }) {
      await commit((ctx) => deleteDevice(ctx, params.id));
      return { message: "device deleted" };
    },
  }),
];

import { changeDevice, getDetail, listSummaries, registerDevice } from "../../core/device-list.ts";
import { deleteDevice, getAnyDevice } from "../../core/devices.ts";
import { statusOf } from "../../core/status.ts";
import { route } from "../route.ts";
import {
  detailSchema,
  deviceInput,
  deviceListSchema,
  deviceParams,
  deviceQuery,
  deviceUpdate,
  successSchema,
  toDetail,
  toListed,
} from "./shapes.ts";

export interface DeviceDeps {
  /** Whether a device, by its UUID, has an MQTT session open. */
  isConnected: (deviceUuid: string) => boolean;
}

const tag = "Devices";
const errors = { 404: "NOT_FOUND" };

export const deviceRoutes = ({ isConnected }: DeviceDeps) => [
  route({
    method: "get",
    path: "/devices",
    tag,
    summary: "List all devices",
    description: "Oldest first. `type` is the device's or that of any of its sensors.",
    query: deviceQuery,
    status: 200,
    response: deviceListSchema,
    handle({ read }, { query: { include, ...query } }) {
      const { devices, total } = read((ctx) => listSummaries(ctx, { ...query, hasLastReading: include !== undefined }));
      return { devices: devices.map(toListed), total, limit: query.limit, offset: query.offset };
    },
  }),
  route({
    method: "post",
    path: "/devices",
    tag,
    summary: "Register a device",
    description: "Makes the device with its primary sensor. Without an `id` its UUID is its id.",
    body: deviceInput,
    status: 201,
    response: detailSchema,
    errors: { 409: "CONFLICT: the id is taken" },
    async handle({ commit }, { body }) {
      return toDetail(await commit((ctx) => registerDevice(ctx, body)), false);
    },
  }),
  route({
    method: "get",
    path: "/devices/:deviceId",
    tag,
    summary: "Get device details",
    params: deviceParams,
    status: 200,
    response: detailSchema,
    errors,
    handle({ read }, { params: { deviceId } }) {
      const detail = read((ctx) => getDetail(ctx, deviceId));
      return toDetail(detail, isConnected(detail.device.id));
    },
  }),
  route({
    method: "put",
    path: "/devices/:deviceId",
    tag,
    summary: "Update a device",
    description: "All fields are optional. `status` enables (`online`) or disables (`offline`) the device.",
    params: deviceParams,
    body: deviceUpdate,
    status: 200,
    response: detailSchema,
    errors,
    async handle({ commit }, { params: { deviceId }, body: { status, ...fields } }) {
      const detail = await commit((ctx) =>
        changeDevice(ctx, deviceId, { ...fields, statusId: status && statusOf(status) }),
      );
      return toDetail(detail, isConnected(detail.device.id));
    },
  }),
  route({
    method: "delete",
    path: "/devices/:deviceId",
    tag,
    summary: "Delete a device with its data",
    params: deviceParams,
    status: 200,
    response: successSchema,
    errors,
    async handle({ commit }, { params: { deviceId } }) {
      await commit((ctx) => deleteDevice(ctx, getAnyDevice(ctx, deviceId).id));
      return { success: true } as const;
    },
  }),
];

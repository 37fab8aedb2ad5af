import * as v from "valibot";
import { issueDeviceToken, revokeDeviceToken } from "../../core/identities.ts";
import { route } from "../route.ts";
import { deviceParams, successSchema } from "./shapes.ts";

const tag = "Devices";
const errors = { 403: "FORBIDDEN: administrators only", 404: "NOT_FOUND" };

export const tokenRoutes = () => [
  route({
    method: "post",
    path: "/devices/:deviceId/token",
    access: "admin",
    tag,
    summary: "Give a device a token of its own",
    description:
      "It logs in to the broker with its id as username and the token as password. From then on nobody else may speak for it. Shown this once; it replaces an earlier one.",
    params: deviceParams,
    status: 201,
    response: v.object({ token: v.string() }),
    errors,
    async handle({ commit }, { params: { deviceId } }) {
      return { token: await commit((ctx) => issueDeviceToken(ctx, deviceId)) };
    },
  }),
  route({
    method: "delete",
    path: "/devices/:deviceId/token",
    access: "admin",
    tag,
    summary: "Take a device's token away",
    params: deviceParams,
    status: 200,
    response: successSchema,
    errors,
    async handle({ commit }, { params: { deviceId } }) {
      await commit((ctx) => revokeDeviceToken(ctx, deviceId));
      return { success: true } as const;
    },
  }),
];

// The matcher of topics that Aedes' own persistence is built on; it comes without types.

declare module "qlobber" {
  export class QlobberTrue {
    constructor(options: { wildcard_one: string; wildcard_some: string; separator: string });
    add(pattern: string): void;
    test(topic: string): boolean;
  }
}

declare module "qlobber/aedes/qlobber-sub.js" {
  export default class QlobberSub {
    constructor(options: { wildcard_one: string; wildcard_some: string; separator: string });
    add(pattern: string, subscription: object): void;
    remove(pattern: string, subscription: { clientId: string; topic: string }): void;
    /** One for each client, with the highest QoS of those that match. */
    match(topic: string): object[];
    readonly subscriptionsCount: number;
  }
}

// Modules that the build makes out of files, so that one bundle needs nothing beside it. See `embed` in build.mjs.

declare module "embedded:package" {
  export const version: string;
}

declare module "embedded:migrations" {
  /** In the order in which they apply; each `statements` entry is one SQL statement. */
  export const migrations: readonly { name: string; statements: readonly string[] }[];
}

declare module "embedded:addons" {
  /** better-sqlite3's native addon, Brotli-compressed, by `platform-arch`. Empty where node_modules is at hand. */
  export const addons: Readonly<Record<string, Uint8Array>>;
}

declare module "embedded:web" {
  /** The files of src/web by their path in it, such as `docs/index.html`. */
  export const files: Readonly<Record<string, { readonly type: string; readonly body: string }>>;
}

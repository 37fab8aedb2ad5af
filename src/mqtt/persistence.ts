import memory from "aedes-persistence";

// Its types describe a class; the package exports a factory.
const createMemory = memory as unknown as () => object;

/**
 * Where the broker keeps sessions, retained and queued messages: in memory, so they end with the process. Readings do
 * not pass here; they are in the store before they are acknowledged.
 */
export const createPersistence = (): object => createMemory();

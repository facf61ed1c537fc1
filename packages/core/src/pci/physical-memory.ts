import { type PlatformToken, platformToken } from './function.js';

/** A piece of physical memory, mapped. */
export interface PhysicalMapping {
  /** The bytes as they are now: what firmware changes is seen. Length 0 after {@link unmap}. */
  readonly bytes: Uint8Array;
  /** Idempotent. */
  unmap(): void;
}

/** Memory by physical address, for reading: `/dev/mem`, a dump in a file, the memory of an emulated host. */
export interface PhysicalMemory {
  /**
   * @param address in bytes, at any alignment
   * @param size in bytes, above 0
   * @throws ENOMEM where not all of it is there or can be mapped, EPERM where it may not be
   */
  map(address: bigint, size: number): PhysicalMapping;
}

/** Where the OpRegion of an Intel graphics device can be read, if anywhere. */
export const OPREGION_MEMORY: PlatformToken<PhysicalMemory> = platformToken('opregion-memory');

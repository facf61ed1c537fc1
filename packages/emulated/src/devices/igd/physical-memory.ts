import type { PhysicalMapping, PhysicalMemory } from '@vfio/core';
import { errnoError } from '@vfio/uapi';

/** Physical memory of which only some pieces are there. */
export class EmulatedPhysicalMemory implements PhysicalMemory {
  readonly #pieces: { readonly address: bigint; readonly bytes: Uint8Array }[] = [];
  /** Mappings that are not unmapped. */
  mappings = 0;

  /** Puts bytes at an address; what is changed in them later is seen by who has mapped them. */
  put(address: bigint, bytes: Uint8Array): void {
    this.#pieces.push({ address, bytes });
  }

  map(address: bigint, size: number): PhysicalMapping {
    for (const piece of this.#pieces) {
      const end = piece.address + BigInt(piece.bytes.length);
      if (address < piece.address || address + BigInt(size) > end) continue;
      const at = Number(address - piece.address);
      return this.#mapping(piece.bytes.subarray(at, at + size));
    }
    throw errnoError('ENOMEM', `0x${address.toString(16)}+0x${size.toString(16)}: there is no such memory`);
  }

  #mapping(view: Uint8Array): PhysicalMapping {
    let bytes = view;
    this.mappings++;
    return {
      get bytes() {
        return bytes;
      },
      unmap: () => {
        if (bytes.length > 0) this.mappings--;
        bytes = new Uint8Array(0);
      },
    };
  }
}

import { socketpair } from '@vfio/native';
import { VFIO_MIGRATION_STOP_COPY } from '@vfio/uapi';
import type { MoveOutOptions, VfioUserServerOptions } from '../../src/index.js';
import { guestMemory, serve } from './serve.js';
import { migratable } from './toy-migration.js';

export const PAGE = 4096;

/** Bytes that differ from place to place. */
export const pattern = (length: number, seed = 0) =>
  Uint8Array.from({ length }, (_, at) => (at * 31 + (at >> 8) + seed) & 0xff);

/** A served device with a client that has mapped memory. */
export async function side(flags: number, memory: ReturnType<typeof guestMemory>, options: VfioUserServerOptions = {}) {
  const { toy, device } = await migratable(flags);
  const served = await serve(device, options);
  const client = await served.connect();
  await client.dmaMap({
    iova: 0x10000n,
    size: BigInt(memory.bytes.length),
    readable: true,
    writable: true,
    memory: { bytes: memory.bytes, fd: memory.fd, fdOffset: 0 },
  });
  return { toy, device, client, memory, ...served };
}

export async function two(flags: number = VFIO_MIGRATION_STOP_COPY, pages = 8) {
  const from = await side(flags, guestMemory(pages * PAGE));
  const to = await side(flags, guestMemory(pages * PAGE));
  from.memory.bytes.set(pattern(pages * PAGE));
  from.toy.state = pattern(100_000, 7);
  const move = (options: MoveOutOptions = {}) => {
    const [a, b] = socketpair();
    return Promise.allSettled([from.server.moveOut({ fd: a }, options), to.server.moveIn({ fd: b })]);
  };
  return { from, to, move };
}

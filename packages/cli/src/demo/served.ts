import { join } from 'node:path';
import { callbackTrigger, type VfioDeviceProvider } from '@vfio/core';
import { VfioUserClient, VfioUserServer } from '@vfio/vfio-user';
import { InterruptLatch } from './interrupt-latch.js';
import { type ProgramContext, Registers } from './registers.js';

/** VFIO's numbers, as linux/vfio.h has them. */
const CONFIG_REGION = 7;
const MSI = 1;
const MSIX = 2;
const DATA_EVENTFD_ACTION_TRIGGER = 0x4 | 0x20;
/** COMMAND: memory decode and bus mastering. */
const COMMAND = 0x04;
const MEMORY_AND_MASTER = 0x6;

const MEMORY_SIZE = 1 << 20;
const IOVA = 0x100000;

/**
 * Serves a device on a socket, attaches to it as a VMM would (memory by descriptor, interrupts by eventfd) and runs a
 * program on it.
 */
export async function withServed<T>(
  device: VfioDeviceProvider,
  folder: string,
  interrupts: { readonly type: 'msi' | 'msix'; readonly vectors: number },
  run: (context: ProgramContext) => Promise<T>,
): Promise<T> {
  const path = join(folder, `${device.function.address.replaceAll(':', '-')}.sock`);
  const server = new VfioUserServer(device);
  await server.listen(path);
  try {
    await using client = await VfioUserClient.connect(path);
    await new Registers(client, CONFIG_REGION).update16(COMMAND, MEMORY_AND_MASTER);
    const memory = await client.dmaAlloc({ iova: BigInt(IOVA), size: MEMORY_SIZE });
    const latch = new InterruptLatch();
    // The last vector is the program's; those before it belong to queues that it polls.
    const triggers = Array.from({ length: interrupts.vectors }, (_, vector) =>
      vector === interrupts.vectors - 1 ? callbackTrigger(latch.signal) : null,
    );
    const index = interrupts.type === 'msi' ? MSI : MSIX;
    await client.setIrqs({ flags: DATA_EVENTFD_ACTION_TRIGGER, index, start: 0, count: triggers.length, triggers });
    return await run({ device: client, memory: memory.bytes, iova: IOVA, waitInterrupt: () => latch.wait() });
  } finally {
    await server.close();
  }
}

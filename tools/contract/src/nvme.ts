import type { VfioDeviceProvider } from '@vfio/core';
import { EmulatedPciHost, NVME_IO as IO, NvmeController, NVME_REG as REG, SparseMemoryStore } from '@vfio/emulated';
import { nvmeDriver, nvmeVfioPciDriver } from '@vfio/nvme-vfio-pci';
import type { DeviceState, DeviceWorkload } from '@vfio/testing';
import { VFIO_PCI_MSIX_IRQ_INDEX } from '@vfio/uapi';
import { disableNvme, NVME_GUEST_DATA, NVME_GUEST_VECTOR, type NvmeCommand, NvmeGuest } from './nvme-guest.js';
import { read32, write32 } from './registers.js';
import { sharedMemory, virtualFunctions } from './subjects.js';

const PAGE = 4096;
const BLOCK = 512;
const READS = 5;

/** An NVMe drive that is driven by us, and two of its virtual functions behind their driver. */
export async function nvmeFunctions(): Promise<{
  readonly devices: readonly VfioDeviceProvider[];
  close(): Promise<void>;
}> {
  const store = new SparseMemoryStore();
  store.write(0, new Uint8Array(PAGE).fill(0xa5));
  const host = new EmulatedPciHost({ memory: sharedMemory });
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  const pf = host.add({
    address: '0000:01:00.0',
    model: (ctx) => new NvmeController(ctx, { virtualFunctions: 2, namespaces: [{ size: 0x100000, store }] }),
  });
  const { bus, devices } = await virtualFunctions(host, pf, nvmeDriver(), nvmeVfioPciDriver());
  return { devices, close: () => bus.close() };
}

const QUEUE_REGISTERS = [REG.AQA, REG.ASQ, REG.ASQ_HIGH, REG.ACQ, REG.ACQ_HIGH] as const;

/** Registers of a disabled controller, which do nothing before it is enabled. */
export const nvmeState: DeviceState = {
  async put(device, seed) {
    await disableNvme(device);
    for (const register of QUEUE_REGISTERS) await write32(device, register, Math.imul(seed + register, 0x9e3779b1));
  },
  async get(device) {
    const values = await Promise.all(QUEUE_REGISTERS.map((register) => read32(device, register)));
    return new Uint8Array(Uint32Array.from(values).buffer);
  },
};

/** Blocks of the disk, none of whose bytes is 0, that are read to places all over the memory; one interrupt for all of them. */
export const nvmeWorkload = (map: DeviceWorkload['map']): DeviceWorkload => ({
  map,
  async run(device, { iova, bytes }, random) {
    const base = Number(iova);
    const guest = await NvmeGuest.start(device, { iova, bytes });
    const blocks = PAGE / BLOCK;
    const part = Math.floor((bytes.length - NVME_GUEST_DATA) / PAGE / READS);
    const ranges: { iova: bigint; length: bigint }[] = [];
    const commands: NvmeCommand[] = [];
    for (let n = 0; n < READS; n++) {
      // Each to a part of its own, from some dword of one page to the next one perhaps.
      const page = NVME_GUEST_DATA / PAGE + n * part + Math.floor(random() * (part - 1));
      const at = base + page * PAGE + 4 * Math.floor(random() * (PAGE / 4));
      const count = 1 + Math.floor(random() * blocks);
      commands.push({
        opcode: IO.READ,
        nsid: 1,
        prp1: at,
        prp2: base + (page + 1) * PAGE,
        dwords: [0, 0, count - 1],
      });
      ranges.push({ iova: BigInt(at), length: BigInt(count * BLOCK) });
    }
    await guest.run(1, commands);
    guest.forget();
    return [guest.completions(0), guest.completions(1), ...ranges];
  },
  interrupt: { index: VFIO_PCI_MSIX_IRQ_INDEX, vector: NVME_GUEST_VECTOR },
});

import { deviceOf, OpsRegistry, PciBus, type VfioDeviceClient, type VfioDeviceProvider } from '@vfio/core';
import {
  NVME_ADMIN as ADMIN,
  CC,
  EmulatedPciHost,
  NVME_IO as IO,
  NvmeController,
  NVME_REG as REG,
  SparseMemoryStore,
} from '@vfio/emulated';
import { nvmeDriver, nvmeVfioPciDriver } from '@vfio/nvme-vfio-pci';
import type { DeviceState, DeviceWorkload } from '@vfio/testing';
import { VFIO_PCI_MSIX_IRQ_INDEX } from '@vfio/uapi';
import { sharedMemory } from './subjects.js';

const PAGE = 4096;
const BLOCK = 512;
const ENTRIES = 16;
const VECTOR = 1;
const READS = 5;
/** Pages of the memory: queues, then where data is read to. */
const PAGES = { adminSq: 0, adminCq: 1, ioSq: 2, ioCq: 3, read: 4 } as const;

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
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(nvmeDriver());
  await bus.register(nvmeVfioPciDriver());
  await bus.bindOverride(pf, 'nvme');
  await bus.sriovConfigure(pf, 2);
  const devices: VfioDeviceProvider[] = [];
  for (const address of ['0000:01:00.1', '0000:01:00.2']) {
    const fn = host.find(address);
    if (fn === undefined) throw new Error(`no ${address}`);
    await bus.bindOverride(fn, 'nvme_vfio_pci');
    devices.push(deviceOf(bus, fn));
  }
  return { devices, close: () => bus.close() };
}

async function read(device: VfioDeviceClient, register: number): Promise<number> {
  const bytes = new Uint8Array(4);
  await device.read(0, register, bytes);
  return new DataView(bytes.buffer).getUint32(0, true);
}

async function write(device: VfioDeviceClient, register: number, value: number): Promise<void> {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
  await device.write(0, register, bytes);
}

async function until(device: VfioDeviceClient, isReady: boolean): Promise<void> {
  while (((await read(device, REG.CSTS)) & 1) !== (isReady ? 1 : 0))
    await new Promise((resolve) => setImmediate(resolve));
}

async function disable(device: VfioDeviceClient): Promise<void> {
  await write(device, REG.CC, 0);
  await until(device, false);
}

const QUEUE_REGISTERS = [REG.AQA, REG.ASQ, REG.ASQ_HIGH, REG.ACQ, REG.ACQ_HIGH] as const;

/** Registers of a disabled controller, which do nothing before it is enabled. */
export const nvmeState: DeviceState = {
  async put(device, seed) {
    await disable(device);
    for (const register of QUEUE_REGISTERS) await write(device, register, Math.imul(seed + register, 0x9e3779b1));
  },
  async get(device) {
    const values = await Promise.all(QUEUE_REGISTERS.map((register) => read(device, register)));
    return new Uint8Array(Uint32Array.from(values).buffer);
  },
};

interface Command {
  readonly opcode: number;
  readonly nsid?: number;
  readonly prp1: number;
  readonly prp2?: number;
  readonly dwords: readonly number[];
}

/** A controller that was just enabled, with an admin and an I/O queue pair in the first pages of a memory. */
class Disk {
  readonly #device: VfioDeviceClient;
  readonly #iova: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #tails = [0, 0];

  constructor(device: VfioDeviceClient, iova: bigint, bytes: Uint8Array) {
    this.#device = device;
    this.#iova = Number(iova);
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  async start(): Promise<void> {
    await disable(this.#device);
    const { adminSq, adminCq, ioSq, ioCq } = PAGES;
    await write(this.#device, REG.AQA, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    for (const [register, page] of [
      [REG.ASQ, adminSq],
      [REG.ACQ, adminCq],
    ] as const) {
      await write(this.#device, register, this.#iova + page * PAGE);
      await write(this.#device, register + 4, 0);
    }
    await write(this.#device, REG.CC, 0x00460000 | CC.EN);
    await until(this.#device, true);
    const size = ((ENTRIES - 1) << 16) | 1;
    await this.run(0, [
      { opcode: ADMIN.CREATE_CQ, prp1: this.#iova + ioCq * PAGE, dwords: [size, (VECTOR << 16) | 3] },
    ]);
    await this.run(0, [{ opcode: ADMIN.CREATE_SQ, prp1: this.#iova + ioSq * PAGE, dwords: [size, (1 << 16) | 1] }]);
  }

  /** Hands commands over together, and waits for all of them. */
  async run(queue: 0 | 1, commands: readonly Command[]): Promise<void> {
    const first = this.#tails[queue] ?? 0;
    for (const [n, command] of commands.entries()) {
      const at = (queue === 0 ? PAGES.adminSq : PAGES.ioSq) * PAGE + (first + n) * 64;
      this.#view.setUint32(at, command.opcode | ((first + n) << 16), true);
      this.#view.setUint32(at + 4, command.nsid ?? 0, true);
      this.#view.setBigUint64(at + 24, BigInt(command.prp1), true);
      this.#view.setBigUint64(at + 32, BigInt(command.prp2 ?? 0), true);
      for (const [i, value] of command.dwords.entries()) this.#view.setUint32(at + 40 + 4 * i, value, true);
    }
    const tail = first + commands.length;
    this.#tails[queue] = tail;
    await write(this.#device, REG.DOORBELLS + 8 * queue, tail);
    for (let n = first; n < tail; n++) {
      const at = (queue === 0 ? PAGES.adminCq : PAGES.ioCq) * PAGE + n * 16;
      // A round trip lets the device work.
      while ((this.#view.getUint16(at + 14, true) & 1) === 0) {
        await read(this.#device, REG.CSTS);
        await new Promise((resolve) => setImmediate(resolve));
      }
      const status = this.#view.getUint16(at + 14, true) >>> 1;
      if (status !== 0) throw new Error(`NVMe status 0x${status.toString(16)}`);
    }
    await write(this.#device, REG.DOORBELLS + 8 * queue + 4, tail);
  }

  /** What the guest itself has written. */
  forget(): void {
    for (const page of [PAGES.adminSq, PAGES.ioSq]) this.#bytes.fill(0, page * PAGE, (page + 1) * PAGE);
  }

  /** Entries that were posted to a completion queue. */
  completions(queue: 0 | 1): { readonly iova: bigint; readonly length: bigint } {
    const page = queue === 0 ? PAGES.adminCq : PAGES.ioCq;
    return { iova: BigInt(this.#iova + page * PAGE), length: BigInt(16 * (this.#tails[queue] ?? 0)) };
  }
}

/** Blocks of the disk, none of whose bytes is 0, that are read to places all over the memory; one interrupt for all of them. */
export const nvmeWorkload = (map: DeviceWorkload['map']): DeviceWorkload => ({
  map,
  async run(device, { iova, bytes }, random) {
    const base = Number(iova);
    const disk = new Disk(device, iova, bytes);
    await disk.start();
    const blocks = PAGE / BLOCK;
    const part = Math.floor((bytes.length / PAGE - PAGES.read) / READS);
    const ranges: { iova: bigint; length: bigint }[] = [];
    const commands: Command[] = [];
    for (let n = 0; n < READS; n++) {
      // Each to a part of its own, from some dword of one page to the next one perhaps.
      const page = PAGES.read + n * part + Math.floor(random() * (part - 1));
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
    await disk.run(1, commands);
    disk.forget();
    return [disk.completions(0), disk.completions(1), ...ranges];
  },
  interrupt: { index: VFIO_PCI_MSIX_IRQ_INDEX, vector: VECTOR },
});

import {
  type AccessWidth,
  defineVfioDriver,
  dmaSpaceLogOps,
  type PciDriver,
  pciDriverOverrideDeviceVfio,
  type VfioDeviceOps,
  type VfioOpsFactory,
  type VfioPciCoreDevice,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
} from '@vfio/core';
import {
  type BarHandler,
  type DeviceModel,
  type EmulatedFunction,
  EmulatedPciHost,
  type EmulatedPciHostOptions,
  type FunctionContext,
} from '@vfio/emulated';
import type { DeviceDma, DeviceState } from '@vfio/testing';
import {
  PCI_ANY_ID,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_REGION_INFO_FLAG_READ,
} from '@vfio/uapi';
import { read32, write32 } from './registers.js';
import { type Movable, type StreamVersion, WholeMigration } from './whole-migration.js';

const ADDRESS = '0000:01:00.0';

/** Registers of BAR 0: where to write, how much, and the word that starts it and reads 0 when it is done; then vector 0. */
export const ENGINE = { ADDRESS: 0, LENGTH: 8, GO: 12 } as const;
const PATTERN = 0xa5;

/** An expansion ROM of one image of 2 KiB (PCI Firmware Specification, 5.1.1). */
function rom(): Uint8Array {
  const image = new Uint8Array(2048);
  image.set([0x55, 0xaa], 0);
  image[0x18] = 0x1c;
  image.set([0x50, 0x43, 0x49, 0x52], 0x1c);
  image[0x1c + 0x0a] = 0x18;
  image[0x1c + 0x10] = image.length / 512;
  image[0x1c + 0x15] = 0x80;
  return image;
}

/** A function with everything that a rule may ask for: each type of interrupt and BAR, ROM, power states, FLR, SR-IOV, DMA. */
class WholeDevice implements DeviceModel, BarHandler, Movable {
  readonly #ctx: FunctionContext;
  readonly registers = new Uint8Array(16);
  readonly #registers = new DataView(this.registers.buffer);
  #isHeld = false;
  #working: Promise<void> | undefined;

  constructor(ctx: FunctionContext) {
    this.#ctx = ctx;
    ctx.identity({ vendor: 0x1234, device: 0x0e11, subvendor: 0x1af4, subdevice: 0x1100, class: 0xff0000 });
    ctx.intx();
    ctx.bar(0, { size: 0x4000, is64Bit: true, handler: this });
    ctx.bar(2, { size: 32, io: true });
    ctx.bar(3, { size: 0x4000, memory: true });
    ctx.rom(rom());
    ctx.pm({ noSoftReset: true });
    ctx.msi({ vectors: 8, is64Bit: true, maskable: true });
    ctx.msix({ vectors: 16, table: { bar: 0, offset: 0x2000 }, pba: { bar: 0, offset: 0x3000 } });
    ctx.express({ flr: true });
    ctx.aer();
    ctx.sriov({ totalVfs: 2, device: 0x0e12, model: () => ({}) });
  }

  read(offset: number, width: AccessWidth): number {
    return width === 4 && offset < 16 ? this.#registers.getInt32(offset, true) : 0;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    if (width !== 4 || offset >= 16) return;
    this.#registers.setInt32(offset, value, true);
    if (offset === ENGINE.GO) this.#ctx.defer(() => this.#run());
  }

  /** The engine begins nothing while it is held, and what was asked of it when it is let go. */
  hold(isHeld: boolean): Promise<void> | undefined {
    this.#isHeld = isHeld;
    if (!isHeld) this.#ctx.defer(() => this.#run());
    return this.#working;
  }

  reset(): void {
    for (let at = 0; at < 16; at += 4) this.#registers.setInt32(at, 0, true);
  }

  #run(): void {
    if (this.#isHeld || this.#working !== undefined || this.#registers.getInt32(ENGINE.GO, true) === 0) return;
    this.#working = this.#work().finally(() => {
      this.#working = undefined;
    });
  }

  async #work(): Promise<void> {
    const address = Number(this.#registers.getBigUint64(ENGINE.ADDRESS, true));
    const bytes = new Uint8Array(this.#registers.getUint32(ENGINE.LENGTH, true)).fill(PATTERN);
    try {
      await this.#ctx.dma.write(address, bytes);
    } catch {
      // Nobody took it: the engine gives up.
    }
    this.#registers.setInt32(ENGINE.GO, 0, true);
    this.#ctx.irq.send(0);
  }
}

export function wholeFunction(options: EmulatedPciHostOptions = {}) {
  const host = new EmulatedPciHost(options);
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  return { host, fn: host.add({ address: ADDRESS, model: (ctx) => new WholeDevice(ctx) }) };
}

export const ALL_MIGRATION = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;

/** What a driver adds that has all optional abilities; with flags of 0, all but those of migration. */
function initWhole(dev: VfioPciCoreDevice, migrationFlags: number, version: StreamVersion): void {
  if (migrationFlags !== 0) {
    const migration = new WholeMigration((dev.fn as EmulatedFunction<WholeDevice>).model, version);
    dev.migrationFlags = migrationFlags;
    dev.migrationOps = migration.ops;
    dev.resetDone.push(() => migration.reset());
    dev.logOps = dmaSpaceLogOps;
  }
  dev.addInfoCap({ id: 5, version: 1, data: new Uint8Array(8) });
  dev.registerDevRegion({
    type: 0x80001234,
    subtype: 1,
    size: 64,
    flags: VFIO_REGION_INFO_FLAG_READ,
    ops: {
      read: (_dev, _region, _offset, data) => data.length,
      write: (device) => {
        throw device.error('EINVAL', 'write', 'the region is only read');
      },
    },
  });
}

/** A driver with all abilities, changed in one way perhaps. */
export function wholeDriver(
  change: (core: VfioDeviceOps) => Partial<VfioDeviceOps> = () => ({}),
  migrationFlags = ALL_MIGRATION,
  version: StreamVersion = 1,
): PciDriver {
  const ops: VfioOpsFactory = (core) => {
    const whole: VfioDeviceOps = {
      ...core,
      name: 'whole',
      init(dev) {
        core.init(dev);
        initWhole(dev, migrationFlags, version);
      },
    };
    return { ...whole, ...change(whole) };
  };
  return defineVfioDriver({
    name: 'whole',
    idTable: [pciDriverOverrideDeviceVfio(PCI_ANY_ID, PCI_ANY_ID)],
    async probe(fn, _id, bus) {
      await vfioPciCoreProbe(bus, fn, { ops });
    },
    remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
  });
}

/** The engine of a {@link WholeDevice}, over memory of this process. */
export const wholeDma: DeviceDma = {
  interrupt: { index: VFIO_PCI_MSIX_IRQ_INDEX, vector: 0 },
  async map(device, iova, size) {
    const bytes = new Uint8Array(size);
    const memory = { bytes, fd: undefined, fdOffset: 0 };
    await device.dmaMap({ iova, size: BigInt(size), readable: true, writable: true, memory });
    return bytes;
  },
  async write(device, iova, length) {
    await write32(device, ENGINE.ADDRESS, Number(iova & 0xffffffffn));
    await write32(device, ENGINE.ADDRESS + 4, Number(iova >> 32n));
    await write32(device, ENGINE.LENGTH, length);
    await write32(device, ENGINE.GO, 1);
    while ((await read32(device, ENGINE.GO)) !== 0) await new Promise((resolve) => setImmediate(resolve));
  },
};

/** What the engine is to do next, which it is never told to begin. */
export const wholeState: DeviceState = {
  async put(device, seed) {
    await write32(device, ENGINE.ADDRESS, Math.imul(seed, 0x01010101));
    await write32(device, ENGINE.LENGTH, seed);
  },
  async get(device) {
    const bytes = new Uint8Array(12);
    for (let at = 0; at < bytes.length; at += 4) await device.read(0, at, bytes.subarray(at, at + 4));
    return bytes;
  },
};

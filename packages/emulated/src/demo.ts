import { PCI_VENDOR_ID_MELLANOX } from '@vfio/uapi';
import { ConnectX } from './devices/connectx/index.js';
import { BochsDisplay } from './devices/display.js';
import { Edu } from './devices/edu.js';
import { NvmeController, type NvmeOptions } from './devices/nvme/index.js';
import { SriovEdu } from './devices/sriov-edu.js';
import { StubDevice } from './devices/stub.js';
import { EmulatedPciHost, type EmulatedPciHostOptions } from './host/host.js';

/** Where the functions of {@link createDemoHost} are. These addresses do not change between versions. */
export const DEMO = {
  hostBridge: '0000:00:00.0',
  display: '0000:00:01.0',
  edu: '0000:00:02.0',
  nvme: '0000:01:00.0',
  /** Two namespaces: 1 TiB of which only what is written takes room, and 128 MiB in blocks of 4096 bytes. */
  nvmeLarge: '0000:02:00.0',
  /** A physical function with 4 virtual functions, 0000:03:00.1 to 0000:03:00.4. */
  sriov: '0000:03:00.0',
  /** The ids of a ConnectX virtual function with nothing behind them. */
  nic: '0000:04:00.0',
  /** A ConnectX physical function with 4 virtual functions, 0000:05:00.1 to 0000:05:00.4. */
  connectx: '0000:05:00.0',
  /** An NVMe drive with 4 virtual functions, 0000:06:00.1 to 0000:06:00.4. */
  nvmeSriov: '0000:06:00.0',
} as const;

/** What can be changed about the demo host. */
export interface DemoHostOptions extends EmulatedPciHostOptions {
  /** The first NVMe controller. */
  readonly nvme?: NvmeOptions;
  /** The drive with virtual functions. */
  readonly nvmeSriov?: NvmeOptions;
}

const MIB = 0x100000;

/**
 * The host that `vfio list`, `match`, `serve` and `demo` show: a display, edu, two NVMe controllers, an SR-IOV function,
 * a network function whose variant driver may not be there, a ConnectX, and an NVMe drive with virtual functions. See {@link DEMO}
 * for the addresses.
 */
export function createDemoHost(options: DemoHostOptions = {}): EmulatedPciHost {
  const host = new EmulatedPciHost(options);
  host.add({
    address: DEMO.hostBridge,
    model: (ctx) => new StubDevice(ctx, { identity: { vendor: 0x1b36, device: 0x0008, class: 0x060000 } }),
  });
  host.add({ address: DEMO.display, model: (ctx) => new BochsDisplay(ctx, { videoMemory: 4 * MIB }) });
  host.add({ address: DEMO.edu, model: (ctx) => new Edu(ctx) });
  for (const bus of [1, 2, 3, 4, 5, 6]) host.addRootPort({ address: `0000:00:1c.${bus - 1}`, secondaryBus: bus });
  host.add({
    address: DEMO.nvme,
    model: (ctx) => new NvmeController(ctx, { namespaces: [{ size: 64 * MIB }], ...options.nvme }),
  });
  host.add({
    address: DEMO.nvmeLarge,
    model: (ctx) =>
      new NvmeController(ctx, { namespaces: [{ size: MIB * MIB }, { size: 128 * MIB, blockSize: 4096 }] }),
  });
  host.add({ address: DEMO.sriov, model: (ctx) => new SriovEdu(ctx) });
  host.add({
    address: DEMO.nic,
    model: (ctx) =>
      new StubDevice(ctx, {
        identity: {
          vendor: PCI_VENDOR_ID_MELLANOX,
          device: 0x101e,
          subvendor: PCI_VENDOR_ID_MELLANOX,
          class: 0x020000,
        },
        bars: { 0: { size: MIB, is64Bit: true, prefetchable: true } },
        msix: 12,
        express: true,
      }),
  });
  host.add({ address: DEMO.connectx, model: (ctx) => new ConnectX(ctx) });
  host.add({
    address: DEMO.nvmeSriov,
    model: (ctx) =>
      new NvmeController(ctx, { virtualFunctions: 4, namespaces: [{ size: 64 * MIB }], ...options.nvmeSriov }),
  });
  return host;
}

import { OPREGION_MEMORY, type PhysicalMemory } from '@vfio/core';
import { PCI_CAP_ID_VNDR, PCI_CLASS_DISPLAY_VGA, PCI_VENDOR_ID_INTEL } from '@vfio/uapi';
import type { EmulatedFunction } from '../../host/function.js';
import type { EmulatedPciHost } from '../../host/host.js';
import type { DeviceModel, FunctionContext } from '../../model.js';
import { StubDevice } from '../stub.js';
import { makeOpRegion, type OpRegionOptions } from './opregion.js';
import { EmulatedPhysicalMemory } from './physical-memory.js';

/** Registers of the graphics function (8th generation processors, datasheet volume 2, "Processor Graphics"). */
const CAPID0 = 0x40;
const MGGC0 = 0x50;
const BDSM = 0x5c;
const ASLS = 0xfc;
/** Graphics stolen memory 64 MiB, GTT 8 MiB; locked. */
const MGGC0_VALUE = 0x02c1;
const BDSM_VALUE = 0x7c000001;

const CAPID0_LENGTH = 12;
const CAPID0_VERSION = 1;
const NEXT_CAPABILITY = 0x70;

const MIB = 0x100000;

/** What an {@link Igd} is like. */
export interface IgdOptions {
  /** Physical address of the OpRegion, which firmware stores in ASLS. 0: there is none. */
  readonly asls?: number;
  /** Where the OpRegion can be read. */
  readonly memory?: PhysicalMemory;
  /** Default 0x030000, VGA; 0x038000 where it is not the boot display. */
  readonly class?: number;
}

/** The configuration of an Intel integrated graphics device. Nothing is behind its BARs: firmware and drivers need more
 * than registers of it, but what a VFIO driver does with it is all here. */
export class Igd implements DeviceModel {
  constructor(ctx: FunctionContext, options: IgdOptions = {}) {
    ctx.identity({
      vendor: PCI_VENDOR_ID_INTEL,
      device: 0x3e92,
      subvendor: PCI_VENDOR_ID_INTEL,
      subdevice: 0x3e92,
      class: options.class ?? PCI_CLASS_DISPLAY_VGA << 8,
      revision: 2,
    });
    ctx.intx();
    // GTTMMADR, GMADR, IOBAR.
    ctx.bar(0, { size: 16 * MIB, is64Bit: true });
    ctx.bar(2, { size: 256 * MIB, is64Bit: true, prefetchable: true });
    ctx.bar(4, { size: 64, io: true });
    // CAPID0 is 12 bytes; the registers behind it are no capability's, and the next one is at 0x70.
    ctx.config.addCapability(PCI_CAP_ID_VNDR, NEXT_CAPABILITY - CAPID0, CAPID0);
    ctx.config.define(CAPID0 + 2, 2, CAPID0_LENGTH | (CAPID0_VERSION << 8));
    ctx.msi({ vectors: 1 });
    ctx.pm();
    ctx.config.define(MGGC0, 2, MGGC0_VALUE);
    ctx.config.define(BDSM, 4, BDSM_VALUE);
    // What firmware wrote stays until power goes.
    ctx.config.define(ASLS, 4, options.asls ?? 0, { rw: -1, sticky: -1, flrKeep: -1 });
    if (options.memory !== undefined) ctx.platformFact(OPREGION_MEMORY, options.memory);
  }
}

/** What {@link addIgd} makes. */
export interface IgdMachine {
  readonly igd: EmulatedFunction<Igd>;
  readonly memory: EmulatedPhysicalMemory;
  /** The bytes that firmware left. */
  readonly opRegion: Uint8Array;
}

/** Where the OpRegion of {@link addIgd} is. */
const OPREGION_ADDRESS = 0x7bff_8000;

/** Host bridge, integrated graphics and LPC bridge at their places on bus 0, with an OpRegion in memory. */
export function addIgd(host: EmulatedPciHost, options: OpRegionOptions & Pick<IgdOptions, 'class'> = {}): IgdMachine {
  const bridge = (address: string, device: number, deviceClass: number) =>
    host.add({
      address,
      model: (ctx) => {
        const stub = new StubDevice(ctx, { identity: { vendor: PCI_VENDOR_ID_INTEL, device, class: deviceClass } });
        ctx.config.makeConventional();
        return stub;
      },
    });
  bridge('0000:00:00.0', 0x3ec2, 0x060000);
  bridge('0000:00:1f.0', 0xa305, 0x060100);
  const address = BigInt(OPREGION_ADDRESS);
  const { opRegion, extendedVbt } = makeOpRegion(address, options);
  const memory = new EmulatedPhysicalMemory();
  memory.put(address, opRegion);
  if (extendedVbt !== undefined) memory.put(extendedVbt.address, extendedVbt.bytes);
  const igd = host.add({
    address: '0000:00:02.0',
    model: (ctx) =>
      new Igd(ctx, {
        asls: OPREGION_ADDRESS,
        memory,
        ...(options.class === undefined ? {} : { class: options.class }),
      }),
  });
  return { igd, memory, opRegion };
}

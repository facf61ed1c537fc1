import { closeSync, constants, openSync, readSync, realpathSync } from 'node:fs';
import {
  type PciFunction,
  type PciModalias,
  type PciResource,
  type PlatformToken,
  parseModalias,
  type VfioFunctionBase,
} from '@vfio/core';
import { errnoError, systemError } from '@vfio/uapi';
import type { LinuxPciHost } from './host.js';

// Bits of the third column of `resource`: linux include/linux/ioport.h.
const IORESOURCE_ROM_SHADOW = 0x2;
const IORESOURCE_IO = 0x100;
const IORESOURCE_MEM = 0x200;
const IORESOURCE_PREFETCH = 0x2000;
const IORESOURCE_MEM_64 = 0x100000;
const IORESOURCE_UNSET = 0x20000000;

/** BARs 0 to 5 and the ROM; what follows are bridge windows and VF BARs. */
const NUM_RESOURCES = 7;
const ROM = 6;

/** What sysfs says of a function when it is found, and what does not change while it is there. */
interface FunctionFacts {
  readonly id: PciModalias;
  readonly revision: number;
  readonly headerType: number;
}

/**
 * A function of the machine, as sysfs has it. What it is was read once; who has it is read at each question, because the
 * kernel and other programs change that at any time.
 */
export class LinuxPciFunction implements PciFunction {
  readonly host: LinuxPciHost;
  readonly address: string;
  /** Its folder in sysfs. */
  readonly path: string;
  readonly vendor: number;
  readonly device: number;
  readonly subvendor: number;
  readonly subdevice: number;
  readonly class: number;
  readonly revision: number;
  readonly headerType: number;

  constructor(host: LinuxPciHost, address: string, facts: FunctionFacts) {
    this.host = host;
    this.address = address;
    this.path = host.system.sys('bus/pci/devices', address);
    this.vendor = facts.id.vendor;
    this.device = facts.id.device;
    this.subvendor = facts.id.subvendor;
    this.subdevice = facts.id.subdevice;
    this.class = facts.id.class;
    this.revision = facts.revision;
    this.headerType = facts.headerType;
  }

  /** Whether it is still there. */
  get isPresent(): boolean {
    return this.host.system.exists(this.path);
  }

  /** Where the device really sits: `.../devices/pci0000:00/0000:00:1c.0/0000:01:00.0`; what it has lies below. */
  get devicePath(): string {
    try {
      return realpathSync(this.path);
    } catch (error) {
      throw systemError(`${this.address}: resolve ${this.path}`, 'realpath', error);
    }
  }

  /** The kernel driver that has it. */
  get driver(): string | undefined {
    return this.host.system.linkName(`${this.path}/driver`);
  }

  /** Name of the module of the kernel driver that has it; undefined without a driver. */
  get driverModule(): string | undefined {
    return this.host.system.linkName(`${this.path}/driver/module`);
  }

  /** The driver that alone may have it; undefined where none is named. */
  get driverOverride(): string | undefined {
    const text = this.host.system.attribute(`${this.path}/driver_override`);
    return text === undefined || text === '' || text === '(null)' ? undefined : text;
  }

  get iommuGroup(): number | undefined {
    const name = this.host.system.linkName(`${this.path}/iommu_group`);
    return name !== undefined && /^\d{1,9}$/.test(name) ? Number(name) : undefined;
  }

  get physfn(): LinuxPciFunction | undefined {
    const name = this.host.system.linkName(`${this.path}/physfn`);
    return name === undefined ? undefined : this.host.find(name);
  }

  /** Its virtual functions, in the order of their numbers. */
  get virtfns(): readonly LinuxPciFunction[] {
    const { system } = this.host;
    const count = this.sriovNumVfs;
    const found: LinuxPciFunction[] = [];
    for (let index = 0; index < count; index++) {
      const fn = this.host.find(system.linkName(`${this.path}/virtfn${index}`) ?? '');
      if (fn !== undefined) found.push(fn);
    }
    return found;
  }

  /** How many virtual functions it has now; 0 also where it is not a physical function. */
  get sriovNumVfs(): number {
    return decimal(this.host.system.attribute(`${this.path}/sriov_numvfs`)) ?? 0;
  }

  get vfIndex(): number | undefined {
    const { physfn } = this;
    if (physfn === undefined) return undefined;
    const { system } = this.host;
    for (const name of system.list(physfn.path)) {
      if (/^virtfn\d+$/.test(name) && system.linkName(`${physfn.path}/${name}`) === this.address) {
        return Number(name.slice('virtfn'.length));
      }
    }
    return undefined;
  }

  /** Number of the NUMA node that it is near; undefined where the machine does not say. */
  get numaNode(): number | undefined {
    return decimal(this.host.system.attribute(`${this.path}/numa_node`));
  }

  /** Number of its character device `/dev/vfio/devices/vfioN`; undefined where no VFIO driver has it or the kernel has none. */
  get vfioDevice(): number | undefined {
    const name = this.host.system.list(`${this.path}/vfio-dev`).find((entry) => /^vfio\d{1,9}$/.test(entry));
    return name === undefined ? undefined : Number(name.slice('vfio'.length));
  }

  /** BARs 0 to 5 and, at 6, the ROM. Unassigned ones start at 0. */
  get resources(): readonly (PciResource | undefined)[] {
    const lines = (this.host.system.attribute(`${this.path}/resource`) ?? '').split('\n');
    return Array.from({ length: NUM_RESOURCES }, (_, index) => parseResource(lines[index] ?? '', index === ROM));
  }

  /**
   * Config space as sysfs gives it: 256 or 4096 bytes to a privileged reader, 64 (CardBus: 128) to any other.
   * @throws ENODEV where the function has gone; EACCES, EIO
   */
  readConfig(): Uint8Array {
    const path = `${this.path}/config`;
    const bytes = Buffer.alloc(4096);
    let fd: number | undefined;
    try {
      fd = openSync(path, constants.O_RDONLY);
      let length = 0;
      while (length < bytes.length) {
        const read = readSync(fd, bytes, length, bytes.length - length, length);
        if (read === 0) break;
        length += read;
      }
      return new Uint8Array(bytes.subarray(0, length));
    } catch (error) {
      if (!this.isPresent)
        throw errnoError('ENODEV', `${this.address} has gone`, { op: 'config', device: this.address });
      throw systemError(`${this.address}: read ${path}`, 'read', error);
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
  }

  /** @throws ENOTTY: this package finds functions and binds kernel drivers; it does not open what those make of them. */
  get base(): VfioFunctionBase {
    throw errnoError(
      'ENOTTY',
      `${this.address}: functions of the linux host can be listed, matched and bound to kernel drivers, not opened`,
      { op: 'open', device: this.address },
    );
  }

  platform<T>(_token: PlatformToken<T>): T | undefined {
    return undefined;
  }
}

/** Reads what a function is; undefined where it has gone meanwhile. @throws EINVAL for a modalias that is none. */
export function readFacts(host: LinuxPciHost, address: string): FunctionFacts | undefined {
  const { system } = host;
  const path = system.sys('bus/pci/devices', address);
  // One attribute with all that drivers match on, and no access to the device, which may be asleep.
  const modalias = system.attribute(`${path}/modalias`);
  if (modalias === undefined) return undefined;
  const id = parseModalias(modalias);
  const revision = Number(system.attribute(`${path}/revision`) ?? 0);
  return {
    id,
    revision: Number.isInteger(revision) ? revision & 0xff : 0,
    headerType: headerType(host, path, id.class),
  };
}

/** Only bridges have bus numbers; the kernel shows the attribute for header types 1 and 2. */
function headerType(host: LinuxPciHost, path: string, classCode: number): number {
  if (!host.system.exists(`${path}/secondary_bus_number`)) return 0;
  return classCode >>> 8 === 0x0607 ? 2 : 1;
}

function decimal(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : undefined;
}

function parseResource(line: string, isRom: boolean): PciResource | undefined {
  const match = /^0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16})$/.exec(line.trim());
  if (match === null) return undefined;
  const [start = 0, end = 0, flags = 0] = match.slice(1).map((part) => Number.parseInt(part, 16));
  const io = (flags & IORESOURCE_IO) !== 0;
  if ((!io && (flags & IORESOURCE_MEM) === 0) || end < start || !Number.isSafeInteger(end)) return undefined;
  const size = end - start + 1;
  return {
    start: (flags & IORESOURCE_UNSET) !== 0 ? 0 : start,
    size,
    io,
    prefetchable: (flags & IORESOURCE_PREFETCH) !== 0,
    is64Bit: (flags & IORESOURCE_MEM_64) !== 0,
    ...(isRom && (flags & IORESOURCE_ROM_SHADOW) !== 0 ? { shadowLength: size } : {}),
  };
}

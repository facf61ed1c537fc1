import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { formatModalias } from '@vfio/core';
import { type ErrnoName, errnoError } from '@vfio/uapi';
import { afterAll } from 'vitest';
import { LinuxSystem, type ProgramResult } from '../../src/index.js';

export interface FakeFunction {
  readonly address: string;
  /** Folder under /sys/devices; default: the root bus of its domain. */
  readonly at?: string;
  readonly vendor?: number;
  readonly device?: number;
  readonly subvendor?: number;
  readonly subdevice?: number;
  readonly class?: number;
  readonly revision?: number;
  readonly group?: number;
  readonly driver?: string;
  readonly override?: string;
  readonly bridge?: boolean;
  /** The PF of a VF. */
  readonly physfn?: string;
  readonly numVfs?: number;
  readonly numaNode?: number;
  /** Other attributes, by name. */
  readonly files?: Readonly<Record<string, string>>;
}

export interface FakeDriver {
  readonly name: string;
  readonly module?: string;
  /** Functions that it takes unasked. */
  readonly takes?: readonly string[];
  /** What its probe gives for some functions. */
  readonly refuses?: Readonly<Record<string, ErrnoName>>;
  /** Whether a function that it has is a VFIO device. Default: by its name. */
  readonly vfio?: boolean;
}

export interface FakeOptions {
  readonly functions?: readonly FakeFunction[];
  readonly drivers?: readonly FakeDriver[];
  /** Drivers of modules that modprobe can load. */
  readonly loadable?: readonly FakeDriver[];
  readonly aliases?: readonly string[];
  readonly modprobe?: boolean;
  /** Whether the kernel has character devices for VFIO devices. Default true. */
  readonly cdev?: boolean;
}

const folders: string[] = [];
// Many small files: slow on a machine that has other things to do.
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
}, 60_000);

export const RELEASE = '7.3.4-test';

/**
 * A machine in a folder whose kernel reacts to what is written: unbind, bind, drivers_probe and driver_override do to the
 * tree what the driver core does to the real one. Writes can be made to fail, and functions to vanish, at any of them.
 */
export class FakeKernel extends LinuxSystem {
  /** Every write to sysfs so far, as `value > path below /sys`. */
  readonly writes: string[] = [];
  /** Programs that were run. */
  readonly programs: string[] = [];
  /** Called before each write, with its number from 1; what it throws is what the write throws. */
  beforeWrite: ((count: number, path: string) => void) | undefined;
  /** As {@link beforeWrite}, after the kernel has carried it out. */
  afterWrite: ((count: number, path: string) => void) | undefined;
  readonly #drivers = new Map<string, FakeDriver>();
  readonly #options: FakeOptions;
  readonly owners = new Map<string, number>();

  constructor(options: FakeOptions = {}) {
    const root = mkdtempSync(join(tmpdir(), 'vfio-linux-'));
    folders.push(root);
    super({ root, release: RELEASE, env: {} });
    this.#options = options;
    this.put('/sys/bus/pci/drivers_probe', '');
    mkdirSync(this.file('/sys/bus/pci/devices'), { recursive: true });
    mkdirSync(this.file('/sys/bus/pci/drivers'), { recursive: true });
    mkdirSync(this.file('/dev/vfio/devices'), { recursive: true });
    this.put('/proc/self/mountinfo', '22 1 0:20 / /proc rw - proc proc rw\n');
    this.put('/etc/passwd', 'root:x:0:0::/root:/bin/sh\n');
    if (options.aliases !== undefined) {
      this.put(`/lib/modules/${RELEASE}/modules.alias`, `${options.aliases.join('\n')}\n`);
    }
    for (const driver of options.drivers ?? []) this.register(driver);
    for (const fn of options.functions ?? []) this.plug(fn);
  }

  /** Makes a file. */
  put(path: string, content: string | Uint8Array): void {
    mkdirSync(dirname(this.file(path)), { recursive: true });
    writeFileSync(this.file(path), content);
  }

  /** Makes a link to another path of this machine. */
  link(path: string, target: string): void {
    mkdirSync(dirname(this.file(path)), { recursive: true });
    symlinkSync(relative(dirname(this.file(path)), this.file(target)), this.file(path));
  }

  plug(fn: FakeFunction): void {
    const { address, vendor = 0x8086, device = 0x10d3, subvendor = 0, subdevice = 0, revision = 1 } = fn;
    const code = fn.class ?? 0x020000;
    const folder = `/sys/devices/${fn.at ?? `pci${address.slice(0, -5)}`}/${address}`;
    const modalias = formatModalias({ vendor, device, subvendor, subdevice, class: code });
    const hex = (value: number, digits: number): string => `0x${value.toString(16).padStart(digits, '0')}`;
    this.put(`${folder}/modalias`, `${modalias}\n`);
    this.put(`${folder}/revision`, `${hex(revision, 2)}\n`);
    this.put(`${folder}/vendor`, `${hex(vendor, 4)}\n`);
    this.put(`${folder}/driver_override`, `${fn.override ?? '(null)'}\n`);
    this.put(`${folder}/numa_node`, `${fn.numaNode ?? -1}\n`);
    if (fn.bridge === true) this.put(`${folder}/secondary_bus_number`, '1\n');
    if (fn.numVfs !== undefined) this.put(`${folder}/sriov_numvfs`, `${fn.numVfs}\n`);
    for (const [name, content] of Object.entries(fn.files ?? {})) this.put(`${folder}/${name}`, content);
    this.link(`/sys/bus/pci/devices/${address}`, folder);
    if (fn.group !== undefined) {
      this.link(`/sys/kernel/iommu_groups/${fn.group}/devices/${address}`, folder);
      this.link(`${folder}/iommu_group`, `/sys/kernel/iommu_groups/${fn.group}`);
    }
    if (fn.physfn !== undefined) {
      const pf = this.#folder(fn.physfn);
      this.link(`${folder}/physfn`, pf);
      let index = 0;
      while (existsSync(this.file(`${pf}/virtfn${index}`))) index++;
      this.link(`${pf}/virtfn${index}`, folder);
    }
    if (fn.driver !== undefined) this.#attach(address, fn.driver);
  }

  unplug(address: string): void {
    this.#detach(address);
    const group = this.linkName(this.file(`/sys/bus/pci/devices/${address}/iommu_group`));
    rmSync(this.file(`/sys/kernel/iommu_groups/${group}/devices/${address}`), { force: true });
    rmSync(this.file(this.#folder(address)), { recursive: true });
    rmSync(this.file(`/sys/bus/pci/devices/${address}`));
  }

  /** Adds a driver, which takes the free functions that it matches. */
  register(driver: FakeDriver): void {
    this.#drivers.set(driver.name, driver);
    const folder = `/sys/bus/pci/drivers/${driver.name}`;
    this.put(`${folder}/bind`, '');
    this.put(`${folder}/unbind`, '');
    if (driver.module !== undefined) {
      mkdirSync(this.file(`/sys/module/${driver.module}/drivers`), { recursive: true });
      this.link(`/sys/module/${driver.module}/drivers/pci:${driver.name}`, folder);
      this.link(`${folder}/module`, `/sys/module/${driver.module}`);
    }
    for (const address of readdirSync(this.file('/sys/bus/pci/devices'))) this.#probe(address);
  }

  unregister(name: string): void {
    for (const address of readdirSync(this.file('/sys/bus/pci/devices'))) {
      if (this.driverOf(address) === name) this.#detach(address);
    }
    const module = this.#drivers.get(name)?.module;
    this.#drivers.delete(name);
    rmSync(this.file(`/sys/bus/pci/drivers/${name}`), { recursive: true });
    if (module !== undefined) rmSync(this.file(`/sys/module/${module}`), { recursive: true });
  }

  driverOf(address: string): string | undefined {
    const link = this.file(`/sys/bus/pci/devices/${address}/driver`);
    return existsSync(link) ? basename(readlinkSync(link)) : undefined;
  }

  overrideOf(address: string): string {
    return readFileSync(this.file(`/sys/bus/pci/devices/${address}/driver_override`), 'utf8').trim();
  }

  /** Driver and override of every function. */
  state(): Record<string, [driver: string | undefined, override: string]> {
    const addresses = readdirSync(this.file('/sys/bus/pci/devices')).sort();
    return Object.fromEntries(addresses.map((one) => [one, [this.driverOf(one), this.overrideOf(one)]]));
  }

  override write(path: string, text: string): void {
    const below = relative(this.file('/sys'), path);
    this.writes.push(`${JSON.stringify(text)} > ${below}`);
    const count = this.writes.length;
    this.beforeWrite?.(count, below);
    if (!existsSync(path)) throw errnoError('ENOENT', `write to ${path}: ENOENT`, { op: 'open' });
    this.#react(below, text);
    this.afterWrite?.(count, below);
  }

  override run(program: string, args: readonly string[]): ProgramResult | undefined {
    this.programs.push([program, ...args].join(' '));
    const done = (code: number, stdout = '', stderr = ''): ProgramResult => ({ code, stdout, stderr });
    if (program === 'modprobe' && this.#options.modprobe !== false) {
      const name = args.at(-1) ?? '';
      const found = (this.#options.loadable ?? []).filter(({ module }) => module === name);
      if (found.length === 0) return done(1, '', `modprobe: FATAL: Module ${name} not found in directory /lib/modules`);
      for (const driver of found) this.register(driver);
      return done(0);
    }
    if (program === 'id') return args.at(-1) === 'alice' ? done(0, '1000\n') : done(1, '', 'id: no such user');
    return undefined;
  }

  override own(path: string, uid: number): void {
    if (!existsSync(path)) throw errnoError('ENOENT', `chown ${path}: ENOENT`, { op: 'chown' });
    this.owners.set(relative(this.root, path), uid);
  }

  #folder(address: string): string {
    const link = this.file(`/sys/bus/pci/devices/${address}`);
    return `/${relative(this.root, join(dirname(link), readlinkSync(link)))}`;
  }

  #react(below: string, text: string): void {
    const word = text.split('\n')[0] ?? '';
    const [, , , name = '', what] = below.split('/');
    if (below === 'bus/pci/drivers_probe') {
      if (!existsSync(this.file(`/sys/bus/pci/devices/${word}`))) throw errnoError('EINVAL', 'drivers_probe: EINVAL');
      this.#probe(word);
    } else if (below.startsWith('bus/pci/drivers/') && what === 'unbind') {
      if (this.driverOf(word) !== name) throw errnoError('ENODEV', `unbind ${word}: ENODEV`);
      this.#detach(word);
    } else if (below.startsWith('bus/pci/drivers/') && what === 'bind') {
      const driver = this.#drivers.get(name);
      if (driver === undefined || !this.#matches(driver, word)) throw errnoError('ENODEV', `bind ${word}: ENODEV`);
      if (this.driverOf(word) !== undefined) throw errnoError('EBUSY', `bind ${word}: EBUSY`);
      const refused = driver.refuses?.[word];
      if (refused !== undefined) throw errnoError(refused, `bind ${word}: ${refused}`);
      this.#attach(word, name);
    } else if (what === 'driver' && below.endsWith('/driver/unbind')) {
      this.#react(`bus/pci/drivers/${this.driverOf(name)}/unbind`, text);
    } else if (what === 'driver_override') {
      writeFileSync(join(this.file('/sys'), below), `${word === '' ? '(null)' : word}\n`);
    } else {
      throw errnoError('EACCES', `${below} cannot be written`);
    }
  }

  #matches(driver: FakeDriver, address: string): boolean {
    const override = this.overrideOf(address);
    return override === '(null)' ? (driver.takes?.includes(address) ?? false) : override === driver.name;
  }

  #probe(address: string): void {
    if (this.driverOf(address) !== undefined) return;
    for (const driver of this.#drivers.values()) {
      if (!this.#matches(driver, address) || driver.refuses?.[address] !== undefined) continue;
      this.#attach(address, driver.name);
      return;
    }
  }

  #attach(address: string, name: string): void {
    const folder = this.#folder(address);
    this.link(`${folder}/driver`, `/sys/bus/pci/drivers/${name}`);
    this.link(`/sys/bus/pci/drivers/${name}/${address}`, folder);
    if (!(this.#drivers.get(name)?.vfio ?? /vfio.pci$/.test(name))) return;
    const group = this.linkName(this.file(`${folder}/iommu_group`));
    if (group !== undefined) this.put(`/dev/vfio/${group}`, '');
    if (this.#options.cdev === false) return;
    const number = Number.parseInt(address.replaceAll(/[^0-9a-f]/g, ''), 16) % 1000;
    this.put(`${folder}/vfio-dev/vfio${number}/dev`, '');
    this.put(`/dev/vfio/devices/vfio${number}`, '');
  }

  #detach(address: string): void {
    const name = this.driverOf(address);
    if (name === undefined) return;
    const folder = this.#folder(address);
    const group = this.linkName(this.file(`${folder}/iommu_group`));
    rmSync(this.file(`${folder}/driver`));
    rmSync(this.file(`/sys/bus/pci/drivers/${name}/${address}`));
    for (const cdev of this.list(this.file(`${folder}/vfio-dev`))) rmSync(this.file(`/dev/vfio/devices/${cdev}`));
    rmSync(this.file(`${folder}/vfio-dev`), { recursive: true, force: true });
    if (group === undefined) return;
    const others = this.list(this.file(`/sys/kernel/iommu_groups/${group}/devices`));
    if (!others.some((one) => /vfio.pci$/.test(this.driverOf(one) ?? ''))) {
      rmSync(this.file(`/dev/vfio/${group}`), { force: true });
    }
  }
}

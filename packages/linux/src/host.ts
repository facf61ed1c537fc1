import { comparePciAddress, type PciHost, type PciHostEvents, parsePciAddress } from '@vfio/core';
import { messageOf } from '@vfio/uapi';
import { LinuxPciFunction, readFacts } from './function.js';
import { LinuxSystem } from './system.js';

/** A function that sysfs lists and that cannot be used, and why. */
export interface HostProblem {
  readonly address: string;
  readonly message: string;
}

/**
 * The functions of the machine, from sysfs. They are looked for when the host is made and at {@link refresh}: sysfs tells
 * nobody of a change.
 */
export class LinuxPciHost implements PciHost {
  readonly name = 'linux';
  readonly system: LinuxSystem;
  readonly #functions = new Map<string, LinuxPciFunction>();
  readonly #watchers = new Set<PciHostEvents>();
  #sorted: readonly LinuxPciFunction[] | undefined;
  #problems: readonly HostProblem[] = [];

  /** @throws EACCES and the like where sysfs cannot be read; a machine without PCI has no functions. */
  constructor(system: LinuxSystem = new LinuxSystem()) {
    this.system = system;
    const { found, problems } = this.#scan();
    for (const fn of found) this.#functions.set(fn.address, fn);
    this.#problems = problems;
  }

  functions(): readonly LinuxPciFunction[] {
    this.#sorted ??= [...this.#functions.values()]
      .map((fn) => ({ fn, place: parsePciAddress(fn.address) }))
      .sort((a, b) => comparePciAddress(a.place, b.place))
      .map(({ fn }) => fn);
    return this.#sorted;
  }

  find(address: string): LinuxPciFunction | undefined {
    return this.#functions.get(address);
  }

  /** What sysfs listed and is left out, as of the last look. */
  get problems(): readonly HostProblem[] {
    return this.#problems;
  }

  /** Functions of an IOMMU group, bridges included, ordered by address. */
  group(number: number): readonly LinuxPciFunction[] {
    return this.system
      .list(this.system.sys('kernel/iommu_groups', String(number), 'devices'))
      .map((address) => this.find(address))
      .filter((fn) => fn !== undefined);
  }

  watch(events: PciHostEvents): () => void {
    this.#watchers.add(events);
    return () => {
      this.#watchers.delete(events);
    };
  }

  /** Looks again, and tells watchers what has come and gone. A function that was replaced by another went and came. */
  async refresh(): Promise<void> {
    const { found, problems } = this.#scan();
    this.#problems = problems;
    const now = new Map(found.map((fn) => [fn.address, fn]));
    for (const old of [...this.#functions.values()]) {
      const next = now.get(old.address);
      if (next !== undefined && isSame(old, next)) {
        now.delete(old.address);
        continue;
      }
      for (const { removing } of [...this.#watchers]) await removing?.(old);
      this.#functions.delete(old.address);
      this.#sorted = undefined;
    }
    for (const fn of now.values()) {
      this.#functions.set(fn.address, fn);
      this.#sorted = undefined;
      for (const { added } of [...this.#watchers]) added?.(fn);
    }
  }

  #scan(): { found: LinuxPciFunction[]; problems: HostProblem[] } {
    const found: LinuxPciFunction[] = [];
    const problems: HostProblem[] = [];
    for (const address of this.system.list(this.system.sys('bus/pci/devices'))) {
      try {
        parsePciAddress(address);
        const facts = readFacts(this, address);
        // Unplugged between the list and the look.
        if (facts !== undefined) found.push(new LinuxPciFunction(this, address, facts));
      } catch (error) {
        problems.push({ address, message: messageOf(error) });
      }
    }
    return { found, problems };
  }
}

function isSame(a: LinuxPciFunction, b: LinuxPciFunction): boolean {
  const fields = ['vendor', 'device', 'subvendor', 'subdevice', 'class', 'revision', 'headerType'] as const;
  return fields.every((field) => a[field] === b[field]);
}

import type {
  PciDeviceId,
  PciDriver,
  PciFunction,
  PciHost,
  PciHostEvents,
  PciIdentity,
  RawErrorEvent,
  RawFunctionBase,
  RawSriov,
} from '@vfio/core';

/** A function with the identity that is given; what no test of the bus touches is left out. */
export function fakeFunction(host: FakeHost, address: string, fields: Partial<FakeFunctionFields> = {}): PciFunction {
  return {
    vendor: 0x8086,
    device: 0x1533,
    subvendor: 0x8086,
    subdevice: 0x0001,
    class: 0x020000,
    address,
    revision: 0,
    headerType: 0,
    host,
    iommuGroup: undefined,
    physfn: undefined,
    vfIndex: undefined,
    // The bus looks at kind, sriov and onError of a base, nothing else.
    base: { kind: 'raw', sriov: undefined, onError: () => () => {} } as unknown as RawFunctionBase,
    platform: () => undefined,
    ...fields,
  };
}

export type FakeFunctionFields = PciIdentity &
  Pick<PciFunction, 'physfn' | 'vfIndex' | 'base' | 'iommuGroup' | 'headerType'>;

/** A host whose functions come and go as a test wants. */
export class FakeHost implements PciHost {
  readonly name = 'fake';
  readonly #functions = new Map<string, PciFunction>();
  readonly #watchers = new Set<PciHostEvents>();

  functions(): readonly PciFunction[] {
    return [...this.#functions.values()].sort((a, b) => (a.address < b.address ? -1 : 1));
  }

  find(address: string): PciFunction | undefined {
    return this.#functions.get(address);
  }

  watch(events: PciHostEvents): () => void {
    this.#watchers.add(events);
    return () => {
      this.#watchers.delete(events);
    };
  }

  get watchers(): number {
    return this.#watchers.size;
  }

  add(address: string, fields: Partial<FakeFunctionFields> = {}): PciFunction {
    const fn = fakeFunction(this, address, fields);
    this.#functions.set(address, fn);
    for (const watcher of this.#watchers) watcher.added?.(fn);
    return fn;
  }

  async take(fn: PciFunction): Promise<void> {
    for (const watcher of [...this.#watchers]) await watcher.removing?.(fn);
    this.#functions.delete(fn.address);
  }

  /** A physical function whose VFs appear as `<address>` with function numbers from 1 on device 10. */
  addPf(
    address: string,
    options: { totalVfs?: number; driversAutoprobe?: boolean; fields?: Partial<FakeFunctionFields> } = {},
  ): FakePf {
    const { totalVfs = 4, driversAutoprobe = true, fields = {} } = options;
    const vfs: PciFunction[] = [];
    const sriov = {
      totalVfs,
      numVfs: 0,
      driversAutoprobe,
      enable: async (count: number): Promise<void> => {
        sriov.numVfs = count;
        for (let vfIndex = 0; vfIndex < count; vfIndex++) {
          vfs.push(this.add(`${address.slice(0, 8)}10.${vfIndex}`, { device: 0x1520, physfn: fn, vfIndex, ...fields }));
        }
      },
      disable: async (): Promise<void> => {
        for (const vf of vfs.splice(0)) await this.take(vf);
        sriov.numVfs = 0;
      },
    };
    let onError: ((event: RawErrorEvent) => void) | undefined;
    const base = {
      kind: 'raw',
      sriov,
      onError: (handler: (event: RawErrorEvent) => void) => {
        onError = handler;
        return () => {
          onError = undefined;
        };
      },
    } as unknown as RawFunctionBase;
    const fn = this.add(address, { base });
    return {
      fn,
      vfs,
      sriov,
      happen: (event: RawErrorEvent) => onError?.(event),
      watchesErrors: () => onError !== undefined,
    };
  }
}

export interface FakePf {
  readonly fn: PciFunction;
  readonly vfs: readonly PciFunction[];
  readonly sriov: RawSriov & { driversAutoprobe: boolean };
  /** Reports an uncorrectable error. */
  happen(event: RawErrorEvent): void;
  watchesErrors(): boolean;
}

/** A driver that writes down what is asked of it. */
export interface RecordingDriver extends PciDriver {
  readonly log: string[];
}

export function recordingDriver(
  name: string,
  idTable: readonly PciDeviceId[] = [],
  overrides: Partial<PciDriver> = {},
  log: string[] = [],
): RecordingDriver {
  return {
    name,
    idTable,
    log,
    probe: (fn) => {
      log.push(`probe ${name} ${fn.address}`);
    },
    remove: (fn) => {
      log.push(`remove ${name} ${fn.address}`);
    },
    ...overrides,
  };
}

/** A promise that a test settles. */
export function gate(): { readonly promise: Promise<void>; open(): void } {
  let open = (): void => {};
  const promise = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}

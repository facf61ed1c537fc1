import { isVfioError } from '@vfio/uapi';
import { expect } from 'vitest';
import {
  type AllocOptions,
  type EventTrigger,
  type VfioDevice,
  type VfioOpsFactory,
  type VfioPciCoreDevice,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
} from '../../src/index.js';
import { FakeFunction, type FakeFunctionOptions, FakeHost } from './fake-function.js';

/** The generic driver's table. */
export const plainOps: VfioOpsFactory = (core) => ({ ...core, name: 'plain' });

/** A trigger that counts. */
export class CountingTrigger implements EventTrigger {
  readonly fd = undefined;
  signals = 0;
  releases = 0;
  /** Pending count of the eventfd when somebody starts to watch. */
  pending = 0;
  readonly watchers = new Set<() => void>();

  signal(): void {
    this.signals++;
    for (const watcher of [...this.watchers]) watcher();
  }

  watch(handler: () => void): () => void {
    this.watchers.add(handler);
    if (this.pending > 0) {
      this.pending = 0;
      handler();
    }
    return () => {
      this.watchers.delete(handler);
    };
  }

  release(): void {
    this.releases++;
  }
}

export interface Rig {
  readonly host: FakeHost;
  readonly fn: FakeFunction;
  readonly dev: VfioPciCoreDevice;
  readonly warnings: string[];
}

/** A registered device over a fake function. */
export async function rig(
  options: FakeFunctionOptions = {},
  ops: VfioOpsFactory = plainOps,
  alloc: AllocOptions = {},
): Promise<Rig> {
  const host = new FakeHost();
  const fn = new FakeFunction(host, options);
  host.list.push(fn);
  const warnings: string[] = [];
  const dev = vfioPciCoreAllocDevice(fn, ops, { warn: (message) => warnings.push(message), ...alloc });
  await vfioPciCoreRegisterDevice(dev);
  return { host, fn, dev, warnings };
}

/** The same, opened. */
export async function opened(
  options: FakeFunctionOptions = {},
  ops: VfioOpsFactory = plainOps,
  alloc: AllocOptions = {},
): Promise<Rig & { readonly device: VfioDevice }> {
  const made = await rig(options, ops, alloc);
  return { ...made, device: await made.dev.open() };
}

/** The errno of what a call throws or rejects with; 'none' where it does neither. */
export function errnoOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    return nameOf(error);
  }
  return 'none';
}

export async function errnoOfAsync(call: () => unknown): Promise<string> {
  try {
    await call();
  } catch (error) {
    return nameOf(error);
  }
  return 'none';
}

function nameOf(error: unknown): string {
  expect(isVfioError(error), `not a VfioError: ${String(error)}`).toBe(true);
  return isVfioError(error) ? (error.errno ?? 'no errno') : '';
}

export function readBytes(device: VfioDevice, region: number, offset: number, length: number): number[] {
  const data = new Uint8Array(length);
  const done = device.read(region, offset, data);
  return [...data.subarray(0, done)];
}

/** Memory decode and bus mastering on, as a guest's driver does first. */
export async function enableMemory(device: VfioDevice): Promise<void> {
  await device.write(7, 4, Uint8Array.of(0x07, 0));
}

/** Bytes of heap that a run of `work` takes once it is compiled: the least of several, because others use the heap too. */
export function leastGarbage(work: () => void): number {
  work();
  work();
  let least = Number.POSITIVE_INFINITY;
  for (let attempt = 0; attempt < 6; attempt++) {
    const before = process.memoryUsage().heapUsed;
    work();
    least = Math.min(least, Math.abs(process.memoryUsage().heapUsed - before));
  }
  return least;
}

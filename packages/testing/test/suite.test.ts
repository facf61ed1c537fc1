import { deviceOf, PciBus, toClient, vfioPciCoreProbe, vfioPciCoreRemove } from '@vfio/core';
import { EmulatedPciHost, NvmeController } from '@vfio/emulated';
import { describe, expect, test } from 'vitest';
import { contractCases, describeVariantDriver, subject } from '../src/index.js';

/** The NVMe controller behind a driver that changes nothing. */
async function nvme() {
  const host = new EmulatedPciHost();
  const fn = host.add({ address: '0000:00:03.0', model: (ctx) => new NvmeController(ctx) });
  const bus = new PciBus(host);
  await bus.register({
    name: 'plain',
    idTable: [],
    probe: async (found, _id, on) => {
      await vfioPciCoreProbe(on, found, { ops: (core) => ({ ...core, name: 'plain' }) });
    },
    remove: (found, on) => vfioPciCoreRemove(on, found),
  });
  await bus.bindOverride(fn, 'plain');
  return async () => subject(toClient(await deviceOf(bus, fn).open()));
}

const TABLE_RULE = 'the MSI-X table reads as all ones and takes no writes, to its last byte';

// Vitest as the runner: what a driver's own test file has.
describeVariantDriver(
  { describe, test, skip: test.skip },
  { name: 'the suite with vitest', open: await nvme(), skip: { [TABLE_RULE]: 'to see that it is skipped' } },
);

describe('a runner', () => {
  test('is told every case by its name, and why one is not run', () => {
    const seen: string[] = [];
    const runner = {
      describe: (name: string, body: () => void) => {
        seen.push(`group ${name}`);
        body();
      },
      test: (name: string) => void seen.push(name),
      skip: (name: string) => void seen.push(`skip ${name}`),
    };
    const open = () => Promise.reject(new Error('not opened'));
    describeVariantDriver(runner, { name: 'x', open, skip: { [TABLE_RULE]: 'because' } });
    expect(seen[0]).toBe('group x');
    expect(seen).toContain('group interrupts');
    expect(seen).toContain(`skip ${TABLE_RULE} (skipped: because)`);
    expect(seen).not.toContain(TABLE_RULE);
  });

  test('hears of a rule that has nothing to look at', async () => {
    const reasons: (string | undefined)[] = [];
    const bodies: Promise<void>[] = [];
    const runner = {
      describe: (_name: string, body: () => void) => body(),
      test: (name: string, body: (context: { skip(reason?: string): void }) => Promise<void>) => {
        if (name === 'what cannot be logged is refused')
          bodies.push(body({ skip: (reason) => void reasons.push(reason) }));
      },
      skip: () => {},
    };
    describeVariantDriver(runner, { name: 'x', open: await nvme() });
    await Promise.all(bodies);
    expect(reasons).toEqual(['the device does not log its DMA']);
  });
});

describe('cases', () => {
  test('have names of their own', () => {
    const names = contractCases({ name: 'x', open: () => Promise.reject(new Error('not opened')) }).map(
      ({ name }) => name,
    );
    expect(new Set(names).size).toBe(names.length);
  });

  test('that do not exist cannot be skipped', () => {
    const open = () => Promise.reject(new Error('not opened'));
    expect(() => contractCases({ name: 'x', open, skip: { nonsense: 'because' } })).toThrow('nonsense');
  });

  test('close what they opened, also when they fail', async () => {
    let closes = 0;
    const device = {} as never;
    const [first] = contractCases({ name: 'x', open: async () => ({ device, close: async () => void closes++ }) });
    await expect(first?.run()).rejects.toBeInstanceOf(Error);
    expect(closes).toBe(1);
  });
});

import { expect, test } from 'vitest';
import type { ContractOptions } from './contract.js';
import { contractCases, describeVariantDriver } from './suite.js';

const options = (more: Partial<ContractOptions> = {}): ContractOptions => ({
  name: 'a driver',
  open: () => Promise.reject(new Error('opened')),
  ...more,
});

test('every case has a group and a name of its own, and opens the device for itself', async () => {
  const cases = contractCases(options());
  expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
  for (const { group, run } of cases) {
    expect(group).not.toBe('');
    await expect(run()).rejects.toThrow('opened');
  }
});

test('a skip that names no case is an error: a skipped rule must not be lost by a change of its name', () => {
  expect(() => contractCases(options({ skip: { 'no such rule': 'why' } }))).toThrow(/no case "no such rule"/);
});

test('each case is declared once with the runner, a skipped one with its reason', () => {
  const declared: string[] = [];
  const runner = {
    describe: (_name: string, body: () => void) => body(),
    test: (name: string) => declared.push(name),
    skip: (name: string) => declared.push(name),
  };
  const [first, ...others] = contractCases(options()).map(({ name }) => name);
  describeVariantDriver(runner, options({ skip: { [first ?? '']: 'no hardware' } }));
  expect(declared).toEqual([`${first} (skipped: no hardware)`, ...others]);
});

test('a subject is closed when its case fails', async () => {
  let open = 0;
  const device = new Proxy({}, { get: () => () => Promise.reject(new Error('gone')) }) as never;
  const cases = contractCases(options({ open: async () => ({ device, close: async () => void open-- }) }));
  for (const { run } of cases) {
    open++;
    await run().catch(() => {});
    expect(open).toBe(0);
  }
});

test('a handle that is open after a case and was not before fails it', async () => {
  let handles = 0;
  // All that the first case asks for.
  const device = { getInfo: async () => ({ flags: 2, numRegions: 9, numIrqs: 5, caps: [] }) } as never;
  const open = async () => ({ device, close: async () => {} });
  const [tight] = contractCases(options({ open, handles: () => 0 }));
  const [leaky] = contractCases(options({ open, handles: () => handles++ }));
  await expect(tight?.run()).resolves.toBeUndefined();
  await expect(leaky?.run()).rejects.toThrow(/handles after the case/);
});

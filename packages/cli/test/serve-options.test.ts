import { execFileSync } from 'node:child_process';
import type { PciFunction } from '@vfio/core';
import { createDemoHost, DEMO } from '@vfio/emulated';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type ServeOptions, serveTargets, sharedBy, splitFunctions } from '../src/commands/serve.js';
import { qemuCommandLine, qemuDevice, shellQuote } from '../src/serve/qemu.js';

const host = createDemoHost();
const setup = { driverOverride: [], sriovNumvfs: [] };
const at = (address: string): PciFunction => {
  const fn = host.find(address);
  if (fn === undefined) throw new Error(`nothing at ${address}`);
  return fn;
};
const nvme = at(DEMO.nvme);
const edu = at(DEMO.edu);

const targets = (functions: PciFunction[], options: Partial<ServeOptions>) =>
  serveTargets(functions, { socketPath: [], threads: 1, version: '0', host: {}, setup, ...options }, '/run');

test('functions and sockets pair in order; a path is taken from the working directory', () => {
  expect(targets([nvme, edu], { socketPath: ['a', '/b'], driver: 'vfio-pci', socketMode: 0o660 })).toEqual([
    { address: DEMO.nvme, driver: 'vfio-pci', socket: { path: '/run/a', mode: 0o660 } },
    { address: DEMO.edu, driver: 'vfio-pci', socket: { path: '/b', mode: 0o660 } },
  ]);
  expect(targets([edu], { fd: 3 })).toEqual([{ address: DEMO.edu, driver: undefined, socket: { fd: 3 } }]);
});

test.each<[string, PciFunction[], Partial<ServeOptions>, RegExp]>([
  ['fewer sockets than functions', [nvme, edu], { socketPath: ['a'] }, /functions: 2, --socket-path: 1;/],
  ['more sockets than functions', [edu], { socketPath: ['a', 'b'] }, /functions: 1, --socket-path: 2;/],
  ['a socket without a name', [edu], { socketPath: [''] }, /--socket-path is empty/],
  ['one socket for two functions', [nvme, edu], { socketPath: ['a', './a'] }, /two functions on one socket: \/run\/a/],
  ['one function twice', [edu, edu], { socketPath: ['a', 'b'] }, /00:02.0 is named twice/],
  ['a path of more than 107 bytes', [edu], { socketPath: ['ü'.repeat(60)] }, /125 bytes, at most 107/],
  ['a descriptor and a path', [edu], { fd: 3, socketPath: ['a'] }, /--fd serves one function/],
  ['a descriptor for two functions', [edu, nvme], { fd: 3 }, /--fd serves one function/],
  ['a descriptor with a mode', [edu], { fd: 3, socketMode: 0o600 }, /no other socket option/],
  ['a file for a controller that is not served', [edu], { socketPath: ['a'], host: { nvmeFile: 'f' } }, /0000:01:00.0/],
  ['a size without a file', [nvme], { socketPath: ['a'], host: { nvmeSize: 4096 } }, /--nvme-size is the size/],
])('refused: %s', (_, functions, options, message) => {
  expect(() => targets(functions, options)).toThrow(message);
});

test('107 bytes of path are taken', () => {
  expect(() => targets([edu], { socketPath: [`/${'a'.repeat(106)}`] })).not.toThrow();
});

test('a physical function and its virtual ones share state, functions on other buses do not', async () => {
  const other = createDemoHost();
  const pf = other.find(DEMO.sriov) as PciFunction;
  if (pf.base.kind === 'raw') await pf.base.sriov?.enable(2);
  const vfs = other.functions().filter(({ physfn }) => physfn === pf);
  expect(vfs).toHaveLength(2);
  const functions = [other.find(DEMO.nvme), vfs[0], other.find(DEMO.edu), vfs[1]] as PciFunction[];
  const parts = splitFunctions(functions, 8);
  expect(parts).toContainEqual([1, 3]);
  expect(parts).toHaveLength(3);
});

/** A function that shares with others what is named; nothing else of it is asked. */
const sharing = (index: number, physfn: number | undefined): PciFunction =>
  ({
    address: `0000:00:${index.toString(16).padStart(2, '0')}.0`,
    base: { kind: 'raw' },
    physfn: physfn === undefined ? undefined : { address: `0000:00:${physfn.toString(16).padStart(2, '0')}.0` },
  }) as unknown as PciFunction;

test('however functions share: each is in one thread, what shares is in one, and no thread is empty', () => {
  const physfns = fc.array(fc.option(fc.nat(9), { nil: undefined }), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(physfns, fc.integer({ min: 1, max: 6 }), (owners, threads) => {
      const functions = owners.map((owner, index) => sharing(index, owner));
      const parts = splitFunctions(functions, threads);
      expect(parts.flat().sort((a, b) => a - b)).toEqual(functions.map((_, index) => index));
      expect(parts.length).toBeLessThanOrEqual(threads);
      expect(parts.every((part) => part.length > 0)).toBe(true);
      const threadOf = new Map<string, number>();
      for (const [thread, part] of parts.entries()) {
        for (const key of part.flatMap((index) => sharedBy(functions[index] as PciFunction))) {
          expect(threadOf.get(key) ?? thread).toBe(thread);
          threadOf.set(key, thread);
        }
      }
    }),
  );
});

test('any path goes through a shell unharmed, and QEMU gets the JSON that names it', () => {
  const words = fc.array(
    fc.string({ minLength: 1, unit: 'grapheme' }).map((text) => text.replaceAll('\0', '')),
    {
      minLength: 1,
      maxLength: 20,
    },
  );
  fc.assert(
    fc.property(words, (paths) => {
      const script = `printf '%s\\0' ${paths.map(shellQuote).join(' ')}`;
      const out = execFileSync('sh', ['-c', script], { encoding: 'utf8' });
      expect(out.split('\0').slice(0, -1)).toEqual(paths);
    }),
    { numRuns: 20 },
  );
  const line = qemuCommandLine([qemuDevice("/tmp/it's here")]).replace('qemu-system-x86_64', "printf '%s\\n'");
  const args = execFileSync('sh', ['-c', line], { encoding: 'utf8' }).trimEnd().split('\n');
  expect(args.at(-2)).toBe('-device');
  expect(JSON.parse(args.at(-1) ?? '')).toEqual(qemuDevice("/tmp/it's here"));
});

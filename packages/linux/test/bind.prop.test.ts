import { errnoError } from '@vfio/uapi';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { bind, KernelModules, LinuxPciHost, planBind, planRestore, SavedBindings, unbind } from '../src/index.js';
import { FakeKernel } from './helpers/fake-kernel.js';

const DRIVERS = ['nvme', 'e1000e'] as const;

/** One function in whatever state it may be found: free or bound, by its ids or by an override, or with one that nobody answers to. */
const fn = fc.record({
  driver: fc.constantFrom(undefined, ...DRIVERS),
  override: fc.constantFrom(undefined, 'nvme', 'e1000e', 'nobody'),
  takes: fc.boolean(),
});

test('whatever functions were, and whichever writes fail, they are as they were; bound and restored they are so too', () => {
  fc.assert(
    fc.property(fc.array(fn, { minLength: 1, maxLength: 3 }), fc.nat(12), fc.boolean(), (functions, failing, late) => {
      const address = (index: number): string => `0000:01:00.${index}`;
      const kernel = new FakeKernel({
        aliases: ['alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci'],
        drivers: [
          ...DRIVERS.map((name) => ({
            name,
            module: name,
            takes: functions.flatMap((one, index) => (one.takes && one.driver === name ? [address(index)] : [])),
          })),
          { name: 'vfio-pci', module: 'vfio_pci' },
        ],
        functions: functions.map(({ driver, override }, index) => ({
          address: address(index),
          group: 1,
          ...(driver === undefined ? {} : { driver }),
          ...(override === undefined ? {} : { override }),
        })),
      });
      const before = kernel.state();
      const host = new LinuxPciHost(kernel);
      const modules = new KernelModules(kernel);
      kernel[late ? 'afterWrite' : 'beforeWrite'] = (count) => {
        if (count === failing) throw errnoError('EIO', 'injected');
      };
      try {
        bind(modules, planBind(host, modules, host.functions()));
      } catch {
        expect(kernel.state()).toEqual(before);
        expect(new SavedBindings(kernel).addresses()).toEqual([]);
        return;
      }
      expect(Object.values(kernel.state()).map(([driver]) => driver)).toEqual(functions.map(() => 'vfio-pci'));
      kernel.beforeWrite = undefined;
      kernel.afterWrite = undefined;
      unbind(host, modules, planRestore(host));
      expect(kernel.state()).toEqual(before);
    }),
    { numRuns: 60 },
  );
});

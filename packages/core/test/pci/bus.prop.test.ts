import { type DriverSource, isVfioError, PciBus, type PciDriver, type PciFunction, pciDeviceId } from '@vfio/core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FakeHost } from './fake-host.js';

const ADDRESSES = ['0000:01:00.0', '0000:02:00.0'];
const NAMES = ['nic', 'vfio-pci', 'storage'];

/** Who has each function, by what its drivers were told; breaks when they are told what cannot be. */
class Witness {
  readonly has = new Map<PciFunction, { name: string; state: 'probing' | 'bound' | 'removing' }>();
  readonly broken: string[] = [];

  driver(name: string, idTable: PciDriver['idTable'], fails: () => boolean): PciDriver {
    const rest = async (): Promise<void> => {
      for (let i = 0; i < 3; i++) await undefined;
    };
    return {
      name,
      idTable,
      probe: async (fn, _id, bus) => {
        bus.setDrvdata(fn, name);
        const other = this.has.get(fn);
        if (other !== undefined) this.broken.push(`${name} probes ${fn.address}, which ${other.name} has`);
        this.has.set(fn, { name, state: 'probing' });
        await rest();
        if (fails()) {
          this.has.delete(fn);
          throw new Error('probe fails');
        }
        this.has.set(fn, { name, state: 'bound' });
      },
      remove: async (fn, bus) => {
        const mine = this.has.get(fn);
        if (mine?.name !== name || mine.state !== 'bound') this.broken.push(`${name} removes ${fn.address}`);
        this.has.set(fn, { name, state: 'removing' });
        await rest();
        if (bus.getDrvdata(fn) !== name) this.broken.push(`${fn.address} has lost the data of ${name}`);
        this.has.delete(fn);
        if (fails()) throw new Error('remove fails');
      },
    };
  }
}

const step = fc.record({
  what: fc.constantFrom(
    'register',
    'unregister',
    'bind',
    'unbind',
    'probe',
    'bindBest',
    'override',
    'newId',
    'removeId',
    'add',
    'take',
    'settle',
  ),
  driver: fc.constantFrom(...NAMES),
  at: fc.nat(ADDRESSES.length - 1),
  /** Whether the next step waits for this one. */
  awaited: fc.boolean(),
});

test('whatever is done at once: a function has one driver, probe and remove alternate, and all are let go of at the end', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 30 }),
      fc.infiniteStream(fc.integer({ min: 0, max: 5 })),
      async (steps, chance) => {
        const witness = new Witness();
        const fails = (): boolean => chance.next().value === 0;
        const drivers = new Map([
          ['nic', witness.driver('nic', [pciDeviceId({ vendor: 0x8086 })], fails)],
          ['vfio-pci', witness.driver('vfio-pci', [pciDeviceId({ overrideOnly: 1 })], fails)],
          ['storage', witness.driver('storage', [], fails)],
        ]);
        const host = new FakeHost();
        const bus = new PciBus(host);
        const running: Promise<unknown>[] = [];
        const unexpected: unknown[] = [];
        const run = async (work: () => unknown): Promise<void> => {
          try {
            await work();
          } catch (error) {
            // Refused by the bus, or what a driver threw.
            const known =
              isVfioError(error) || (error instanceof Error && /^(probe|remove) fails$/.test(error.message));
            if (!known) unexpected.push(error);
          }
        };
        const functions = new Map<string, PciFunction>();
        for (const { what, driver: name, at, awaited } of steps) {
          const address = ADDRESSES[at]!;
          const driver = drivers.get(name)!;
          const fn = functions.get(address);
          const source: DriverSource = { best: () => ({ driver: name }), load: () => driver };
          const action = run(() => {
            switch (what) {
              case 'register':
                return bus.register(driver);
              case 'unregister':
                return bus.unregister(driver);
              case 'newId':
                return bus.newId(name, '8086 1533');
              case 'removeId':
                return bus.removeId(name, '8086 1533');
              case 'settle':
                return bus.settled();
              case 'add':
                if (fn === undefined) functions.set(address, host.add(address));
                return undefined;
              default:
                if (fn === undefined) return undefined;
            }
            switch (what) {
              case 'bind':
                return bus.bind(fn, name);
              case 'unbind':
                return bus.unbind(fn);
              case 'probe':
                return bus.probe(fn);
              case 'bindBest':
                return bus.bindBest(fn, source);
              case 'override':
                return bus.setDriverOverride(fn, awaited ? name : '');
              case 'take':
                functions.delete(address);
                return host.take(fn);
            }
          });
          running.push(action);
          if (awaited) await action;
        }
        await Promise.all(running);
        await bus.settled();
        for (const fn of bus.functions()) {
          const has = bus.driverOf(fn);
          expect(has?.name).toBe(witness.has.get(fn)?.name);
          if (has !== undefined) expect(bus.drivers()).toContain(has);
          expect(bus.isBound(fn)).toBe(witness.has.get(fn)?.state === 'bound');
        }
        await run(() => bus.close());
        expect(unexpected).toEqual([]);
        expect(witness.broken).toEqual([]);
        expect([...witness.has.keys()].map(({ address }) => address)).toEqual([]);
      },
    ),
    { numRuns: 400 },
  );
});

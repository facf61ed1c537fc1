import type { PciDriver, VfioDeviceOps, VfioOpsFactory } from '@vfio/core';
import { defineVfioDriver, pciDriverOverrideDeviceVfio, vfioPciCoreProbe, vfioPciCoreRemove } from '@vfio/core';
import { contractCases } from '@vfio/testing';
import { describe, expect, test } from 'vitest';
import { demoFunction } from '../src/functions.js';
import { bound, local } from '../src/subjects.js';

const PCI_ANY_ID = 0xffffffff;

/** A driver that is wrong in one way. */
function mutant(change: (core: VfioDeviceOps) => Partial<VfioDeviceOps>): PciDriver {
  const ops: VfioOpsFactory = (core) => ({ ...core, name: 'mutant', ...change(core) });
  return defineVfioDriver({
    name: 'mutant',
    idTable: [pciDriverOverrideDeviceVfio(PCI_ANY_ID, PCI_ANY_ID)],
    async probe(fn, _id, bus) {
      await vfioPciCoreProbe(bus, fn, { ops });
    },
    remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
  });
}

/** Names of the cases that a driver on the NVMe function fails. */
async function failures(driver: PciDriver): Promise<string[]> {
  const failed: string[] = [];
  const { host, fn } = demoFunction('nvme');
  const device = await bound(host, fn, driver);
  const cases = contractCases({ name: 'mutant', open: () => local(device) });
  for (const { name, run } of cases) await run().catch(() => failed.push(name));
  return failed;
}

const MUTANTS: Readonly<Record<string, (core: VfioDeviceOps) => Partial<VfioDeviceOps>>> = {
  'drops one byte of a read': (core) => ({
    read: (dev, region, offset, data) => {
      const done = core.read(dev, region, offset, data);
      if (data.length === 4) data[3] = 0;
      return done;
    },
  }),
  'drops one interrupt': (core) => {
    let count = 0;
    return {
      setIrqs: (dev, request) => ((request.flags & 0x21) === 0x21 && ++count === 2 ? 0 : core.setIrqs(dev, request)),
    };
  },
  'signals the neighbour of a vector': (core) => ({
    setIrqs: (dev, request) =>
      core.setIrqs(
        dev,
        request.flags === 0x21 && request.count === 1 && request.start === 1 ? { ...request, start: 0 } : request,
      ),
  }),
  'keeps the COMMAND of its last user': (core) => {
    let last: Uint8Array | undefined;
    return {
      async openDevice(dev) {
        await core.openDevice(dev);
        if (last !== undefined) await core.write(dev, 7, 4, last);
      },
      async closeDevice(dev) {
        last = new Uint8Array(2);
        core.read(dev, 7, 4, last);
        await core.closeDevice(dev);
      },
    };
  },
  'lets reads past the end of a BAR succeed': (core) => ({
    read: (dev, region, offset, data) =>
      region < 6 && offset >= core.getRegionInfo(dev, region).size ? data.length : core.read(dev, region, offset, data),
  }),
  'answers a BAR while memory decode is off': (core) => ({
    read: (dev, region, offset, data) => {
      try {
        return core.read(dev, region, offset, data);
      } catch (error) {
        if ((error as { errno?: string }).errno === 'EIO') return data.length;
        throw error;
      }
    },
  }),
  'says that a read-only write failed': (core) => ({
    write: (dev, region, offset, data) => {
      if (region === 7 && offset === 0) throw dev.error('EACCES', 'write', 'read-only');
      return core.write(dev, region, offset, data);
    },
  }),
  'knows every feature': (core) => ({
    deviceFeature: async (dev, request) => {
      try {
        return await core.deviceFeature(dev, request);
      } catch {
        return undefined;
      }
    },
  }),
  'says it can be reset and cannot': () => ({
    reset: (dev) => {
      throw dev.error('EINVAL', 'reset', 'no reset');
    },
  }),
  'maps over what is mapped': (core) => ({
    dmaMap: (dev, request) => {
      try {
        core.dmaMap(dev, request);
      } catch (error) {
        if ((error as { errno?: string }).errno !== 'EEXIST') throw error;
      }
    },
  }),
  'shows one region less than it has': (core) => ({
    getInfo: (dev) => ({ ...core.getInfo(dev), numRegions: 8 }),
  }),
  'forgets that INTx masks itself': (core) => ({
    getIrqInfo: (dev, index) => ({ ...core.getIrqInfo(dev, index), flags: 1 }),
  }),
  'lets a guest see the MSI-X table': (core) => ({
    read: (dev, region, offset, data) => {
      const done = core.read(dev, region, offset, data);
      if (region < 6 && data.length === 16) data.fill(0);
      return done;
    },
  }),
};

describe('the suite catches a driver that', () => {
  test('none of the mutants is needed: the unchanged driver passes', async () => {
    expect(await failures(mutant(() => ({})))).toEqual([]);
  }, 60_000);

  for (const [what, change] of Object.entries(MUTANTS)) {
    test(what, async () => {
      expect(await failures(mutant(change))).not.toEqual([]);
    }, 60_000);
  }
});

test('a case that is skipped by a name that does not exist is an error', () => {
  const open = () => Promise.reject(new Error('not opened'));
  expect(() => contractCases({ name: 'x', open, skip: { nonsense: 'because' } })).toThrow('nonsense');
});

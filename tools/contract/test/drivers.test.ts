import { igdVfioPciDriver } from '@vfio/igd';
import { nvmeVfioPciDriver } from '@vfio/nvme-vfio-pci';
import { type ContractSubject, describeVariantDriver } from '@vfio/testing';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { demoFunction, igdFunction } from '../src/functions.js';
import { bound, handles, local, overDevice, Served } from '../src/subjects.js';

const runner = { describe, test, skip: (name: string) => test.skip(name, () => {}) };

const SUBJECTS = [
  { what: 'edu', driver: vfioPciDriver },
  { what: 'nvme', driver: vfioPciDriver },
  { what: 'nvme', driver: nvmeVfioPciDriver },
  { what: 'sriov', driver: vfioPciDriver },
  { what: 'display', driver: vfioPciDriver },
  { what: 'igd', driver: igdVfioPciDriver },
] as const;

for (const { what, driver: make } of SUBJECTS) {
  const driver = make();
  const find = () => (what === 'igd' ? igdFunction() : demoFunction(what));
  const about = { driver, function: find().fn };
  const device = async () => {
    const { host, fn } = find();
    return bound(host, fn, make());
  };

  describe(`${driver.name} on ${what}`, () => {
    // One device for all cases: each leaves it to the next as a user does.
    const direct = device();
    const open = async () => local(await direct);
    describeVariantDriver(runner, { name: 'called directly', driver: about, handles, open });
  });

  describe(`${driver.name} on ${what}`, () => {
    const below = (async () => {
      const { host, fn } = find();
      return overDevice(await bound(host, fn, vfioPciDriver()), make());
    })();
    const open = async () => local(await below);
    describeVariantDriver(runner, { name: 'over a VFIO device', driver: about, handles, open });
  });

  describe(`${driver.name} on ${what}`, () => {
    let served: Served | undefined;
    beforeAll(async () => {
      served = await Served.start(await device());
    });
    afterAll(async () => served?.stop());
    const open = (): Promise<ContractSubject> => served?.open() ?? Promise.reject(new Error('not served'));
    describeVariantDriver(runner, { name: 'through a socket', driver: about, handles, open });
  });
}

import { AliasIndex } from '@vfio/core';
import type { InstalledDrivers } from '@vfio/core/node';
import { expect, test } from 'vitest';
import { betterDriver, type KnownDriver } from './known-drivers.js';

const ID = { vendor: 0x19e5, device: 0xa251, subvendor: 0, subdevice: 0, class: 0x120000 };
const BY_ID = 'vfio_pci:v000019E5d0000A251sv*sd*bc*sc*i*';
const BY_CLASS = 'vfio_pci:v*d*sv*sd*bc12sc*i*';
const ANY = 'vfio_pci:v*d*sv*sd*bc*sc*i*';

const known = (name: string, aliases: string[], requires: string[] = []): KnownDriver => ({
  name,
  package: `@vfio/${name}`,
  aliases,
  requires,
});

function installed(drivers: readonly KnownDriver[], broken: readonly string[] = []): InstalledDrivers {
  const lines = drivers.flatMap(({ name, aliases }) => aliases.map((pattern) => ({ pattern, driver: name })));
  const found = {
    drivers,
    problems: broken.map((name) => ({ package: name })),
    index: new AliasIndex(lines, { drivers }),
    driver: (name: string) => drivers.find((driver) => driver.name === name),
  };
  // As much of it as is asked.
  return found as unknown as InstalledDrivers;
}

const better = (there: InstalledDrivers, all: readonly KnownDriver[], holds = false) =>
  betterDriver(ID, () => holds, there, all)?.name;

const generic = known('generic', [ANY]);
const variant = known('variant', [BY_ID]);
const byClass = known('by-class', [BY_CLASS]);

test('the best that there is, is named where it is not installed', () => {
  expect(better(installed([generic]), [generic, variant, byClass])).toBe('variant');
  expect(better(installed([generic, byClass]), [generic, variant, byClass])).toBe('variant');
  expect(better(installed([]), [generic])).toBe('generic');
});

test('nothing is named where the best is installed, whoever made it', () => {
  expect(better(installed([generic, variant]), [generic, variant, byClass])).toBeUndefined();
  expect(better(installed([{ ...variant, package: '@acme/variant' }]), [variant])).toBeUndefined();
});

test('nothing is named that does not match', () => {
  expect(better(installed([]), [known('other', ['vfio_pci:v00008086d*sv*sd*bc*sc*i*'])])).toBeUndefined();
});

test('a driver is named only where what it requires holds', () => {
  const picky = known('picky', [BY_ID], ['zpci']);
  expect(better(installed([generic]), [picky])).toBeUndefined();
  expect(better(installed([generic]), [picky], true)).toBe('picky');
});

test('a package that is there and cannot be used is not named: installing it would not help', () => {
  expect(better(installed([generic], ['@vfio/variant']), [variant])).toBeUndefined();
});

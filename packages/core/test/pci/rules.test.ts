import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

/**
 * The rules of matching, aliases and binding, as the kernel, file2alias, depmod and libvirt have them. A test that proves one
 * carries its number in brackets in its name.
 */
const RULES: Readonly<Record<string, string>> = {
  '1.1.1': 'a row has seven 32-bit fields; PCI_ANY_ID is 0xffffffff',
  '1.1.2': 'a row with vendor, subvendor and class mask 0 ends a table',
  '1.1.4': 'the override macros fill vendor and device, any subsystem, class and mask 0, and the flag',
  '1.1.5': 'the table of vfio-pci is one row: anything, override-only',
  '1.2.1': 'a driver_override that names another driver: no match',
  '1.2.2': 'dynamic ids are searched first, the first hit wins; they carry override_only 0',
  '1.2.3': 'an override-only hit counts only with driver_override; otherwise the walk goes on',
  '1.2.4': 'driver_override and nothing matched: a dummy row of any ids',
  '1.2.5': 'otherwise no match',
  '1.2.6': 'a row matches by ids equal or any, and the class under the mask',
  '1.2.7': 'a VF is not probed with sriov_drivers_autoprobe off, unless it has driver_override',
  '1.2.8a': 'driver_override is cut at the first newline; empty clears',
  '1.2.8b': 'a write of PAGE_SIZE - 1 bytes or more is EINVAL',
  '1.2.8c': 'what is not set reads as (null)',
  '1.2.8d': 'setting it neither unbinds nor binds',
  '1.2.9a': 'new_id takes two to seven hex fields',
  '1.2.9b': 'fewer than two, or bad ones, are EINVAL',
  '1.2.9c': 'EEXIST where an ordinary row matches; override-only rows are left out',
  '1.2.9d': 'EEXIST where a dynamic id matches',
  '1.2.9e': 'no such test with all seven fields',
  '1.2.9f': "driver_data must equal some row's, where there is a table",
  '1.2.9g': 'after adding, all free functions are offered to the driver',
  '1.2.9h': 'ids= has no duplicate test',
  '1.2.10a': 'remove_id takes two to six fields',
  '1.2.10b': 'fewer than two are EINVAL',
  '1.2.10c': 'vendor and device equal, subsystem equal unless the written one is any',
  '1.2.10d': 'class equal under the written mask',
  '1.2.10e': 'the first such dynamic id goes',
  '1.2.10f': 'none is ENODEV',
  '1.3.1': 'the prefix is pci: or vfio_pci: by override_only',
  '1.3.2': 'another override_only value: a warning and no alias',
  '1.3.3': 'fields v d sv sd bc sc i, ids of 8 upper-case hex digits',
  '1.3.4': 'a wildcard is one star',
  '1.3.5': 'class bytes where the mask byte is ff, star where it is 00, no alias for other masks',
  '1.3.6': 'a star at the end, one more after a full interface',
  '1.3.7': 'the alias of the match-all row',
  '1.3.8': 'the modalias of a function',
  '1.3.9': 'an alias is written once',
  '1.3.10': 'lines of modules.alias, comments',
  '1.3.11': 'records of modules.builtin.modinfo',
  '1.3.12': "a package's alias file is made by these rules",
  '1.4': 'the best match has the fewest wildcards; driver_override, unbind, probe in this order',
  '1.5': 'bugs of the reference script: prefix, class against subdevice, unbinding first, no rollback',
  '1.6': 'a driver can be forced by name; an interface with a trailing star counts as exact',
  '2.9b': 'a new VF gets the driver name of its PF as driver_override',
  '2.9c': 'a VF bound to another driver is a warning only',
  '2.11f': 'VFIO drivers manage DMA themselves',
  '12.1': 'override-only rows are skipped, dynamic ids bypass the flag, driver_override matches without a table',
  '12.2': 'names are looked up, dashes never transformed',
  '12.3': 'hex widths, partial masks, trailing star, ranked by alias and not by driver',
};

test('every rule has a test that carries its number, and no test carries a number that is no rule', () => {
  const root = join(import.meta.dirname, '../..');
  const found = new Set<string>();
  for (const folder of ['src/pci', 'test/pci', 'test/node']) {
    for (const name of readdirSync(join(root, folder))) {
      if (!name.endsWith('.test.ts') || name === 'rules.test.ts') continue;
      const text = readFileSync(join(root, folder, name), 'utf8');
      for (const [, number] of text.matchAll(/\[(\d+\.\d+(?:\.\d+)?[a-z]?)\]/g)) found.add(number as string);
    }
  }
  expect(Object.keys(RULES).filter((number) => !found.has(number))).toEqual([]);
  expect([...found].filter((number) => !Object.hasOwn(RULES, number))).toEqual([]);
});

test('what the main entry is made of imports nothing of Node: it runs in a browser', () => {
  const root = join(import.meta.dirname, '../../src');
  const offenders = readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts') && !path.endsWith('.test.ts') && !path.startsWith('node/'))
    .filter((path) =>
      /from '(?:node:|\.\.?\/(?:\.\.\/)*node\/)|\b(?:process|Buffer)\b\.\w|\b__dirname\b/.test(
        readFileSync(join(root, path), 'utf8'),
      ),
    );
  expect(offenders).toEqual([]);
});

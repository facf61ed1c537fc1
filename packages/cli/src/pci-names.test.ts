import { expect, test } from 'vitest';
import { parsePciIds } from './pci-names.js';

const FILE = `# comment
1234  Technical Corp.
\t1111  VGA
\t\t1af4 1100  Subsystem
\t11e8  Educational device
8086  Intel Corporation
\t5845  QEMU NVM Express Controller

C 01  Mass storage controller
\t08  Non-Volatile memory controller
\t\t02  NVM Express
C 02  Network controller
X yy  Something of a later format
\t00  must not become a class
`;

test('vendors, devices and classes are found, subsystem lines and unknown sections passed over', () => {
  const names = parsePciIds(FILE);
  expect(names.vendor(0x1234)).toBe('Technical Corp.');
  expect(names.device(0x1234, 0x11e8)).toBe('Educational device');
  expect(names.device(0x8086, 0x11e8)).toBeUndefined();
  expect(names.device(0x1234, 0x1af4)).toBeUndefined();
  expect(names.class(0x010802)).toBe('Non-Volatile memory controller');
  expect(names.class(0x020000)).toBe('Network controller');
  expect(names.class(0x030000)).toBe('Display controller');
  expect(names.class(0x550000)).toBeUndefined();
});

test('a file with carriage returns reads the same', () => {
  expect(parsePciIds(FILE.replaceAll('\n', '\r\n')).device(0x8086, 0x5845)).toBe('QEMU NVM Express Controller');
});

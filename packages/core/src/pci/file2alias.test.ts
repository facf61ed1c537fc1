import { PCI_ANY_ID } from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { tableToAliases } from './file2alias.js';
import { fnmatch } from './fnmatch.js';
import {
  type PciDeviceId,
  pciDevice,
  pciDeviceClass,
  pciDeviceId,
  pciDeviceSub,
  pciDriverOverrideClassVfio,
  pciDriverOverrideDeviceVfio,
} from './ids.js';
import { pciMatchOneDevice } from './match.js';
import { formatModalias, parseAliasPattern } from './modalias.js';

const END = pciDeviceId({ vendor: 0, device: 0, subvendor: 0, subdevice: 0 });
const alias = (id: PciDeviceId): string | undefined => tableToAliases([id]).aliases[0];

describe('a row becomes an alias', () => {
  test.each<[string, PciDeviceId, string]>([
    ['[1.3.1] an ordinary row has prefix pci:', pciDevice(0x15b3, 0x1021), 'pci:v000015B3d00001021sv*sd*bc*sc*i*'],
    [
      '[1.3.1] an override-only row has prefix vfio_pci:',
      pciDriverOverrideDeviceVfio(0x15b3, 0x101e),
      'vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*',
    ],
    ['[1.3.7] the match-all row of vfio-pci', pciDeviceId({ overrideOnly: 1 }), 'vfio_pci:v*d*sv*sd*bc*sc*i*'],
    [
      '[1.3.3] fields come in the order v d sv sd bc sc i, ids with 8 digits',
      pciDeviceSub(1, 2, 3, 0xabcdef),
      'pci:v00000001d00000002sv00000003sd00ABCDEFbc*sc*i*',
    ],
    ['[1.3.4] a wildcard is one star', pciDeviceId({ vendor: PCI_ANY_ID, device: 5 }), 'pci:v*d00000005sv*sd*bc*sc*i*'],
    [
      '[1.3.5] class bytes with 2 digits where the mask byte is ff',
      pciDeviceClass(0x020000, 0xff0000),
      'pci:v*d*sv*sd*bc02sc*i*',
    ],
    ['[1.3.5] two class bytes', pciDriverOverrideClassVfio(0x010802, 0xffff00), 'vfio_pci:v*d*sv*sd*bc01sc08i*'],
    ['[1.3.5] the class byte in the middle alone', pciDeviceClass(0x010802, 0x00ff00), 'pci:v*d*sv*sd*bc*sc08i*'],
    [
      '[1.3.6] a full interface is followed by a star of its own',
      pciDriverOverrideClassVfio(0x010802, 0xffffff),
      'vfio_pci:v*d*sv*sd*bc01sc08i02*',
    ],
    [
      '[1.3.5] a mask of all ones, as some tables have it',
      pciDeviceClass(0x0c0330, 0xffffffff),
      'pci:v*d*sv*sd*bc0Csc03i30*',
    ],
    ['ids may have 32 bits', pciDevice(0xfffffffe, 0x12345678), 'pci:vFFFFFFFEd12345678sv*sd*bc*sc*i*'],
  ])('%s', (_, id, expected) => {
    expect(tableToAliases([id])).toEqual({ aliases: [expected], warnings: [] });
  });

  test.each([
    ['0xfe0000', 0xfe0000],
    ['0xfff000', 0xfff000],
    ['0x000001', 0x000001],
    ['0xff80ff', 0xff80ff],
  ])('[1.3.5] [12.3] a class mask that is not whole bytes (%s) gives a warning and no alias at all', (_, classMask) => {
    const { aliases, warnings } = tableToAliases([pciDeviceId({ vendor: 0x15b3, class: 0x020000, classMask })]);
    expect(aliases).toEqual([]);
    expect(warnings).toEqual([{ row: 0, message: expect.stringContaining("can't handle class mask") }]);
  });

  test.each([2, 3, 0x80000000])(
    '[1.3.2] override_only bits that nobody knows (%i) give a warning and no alias',
    (overrideOnly) => {
      const { aliases, warnings } = tableToAliases([pciDeviceId({ vendor: 0x15b3, overrideOnly })]);
      expect(aliases).toEqual([]);
      expect(warnings).toEqual([{ row: 0, message: expect.stringContaining('unknown PCI driver_override') }]);
    },
  );
});

describe('a table', () => {
  test('a row without an alias does not keep the others from theirs; the warning names the row', () => {
    const table = [pciDevice(1, 1), pciDeviceClass(0, 0x0f0000), pciDevice(1, 2)];
    const { aliases, warnings } = tableToAliases(table);
    expect(aliases).toHaveLength(2);
    expect(warnings.map(({ row }) => row)).toEqual([1]);
  });

  test('[1.3.9] an alias that two rows give is written once', () => {
    expect(
      tableToAliases([pciDevice(1, 1), pciDeviceId({ vendor: 1, device: 1, driverData: 9 })]).aliases,
    ).toHaveLength(1);
  });

  test('mixed tables give both prefixes', () => {
    const { aliases } = tableToAliases([pciDevice(1, 1), pciDriverOverrideDeviceVfio(1, 1)]);
    expect(aliases.map((text) => text.slice(0, text.indexOf(':')))).toEqual(['pci', 'vfio_pci']);
  });

  test('[1.1.2] the terminator gives no alias and ends the table; rows behind it are a warning', () => {
    expect(tableToAliases([pciDevice(1, 1), END])).toMatchObject({ aliases: [expect.any(String)], warnings: [] });
    expect(tableToAliases([END, pciDevice(1, 1)])).toEqual({
      aliases: [],
      warnings: [{ row: 0, message: expect.stringContaining('1 rows after') }],
    });
  });

  test('an alias matches exactly the functions that its row matches', () => {
    const small = fc.integer({ min: 0, max: 2 });
    const id = fc.oneof(fc.constant(PCI_ANY_ID), small);
    const bytes = fc.tuple(small, small, small).map(([b, s, i]) => (b << 16) | (s << 8) | i);
    const mask = fc
      .tuple(...[16, 8, 0].map((shift) => fc.boolean().map((on) => (on ? 0xff << shift : 0))))
      .map((parts) => parts.reduce((a, b) => a | b, 0));
    const row = fc
      .record({
        vendor: id,
        device: id,
        subvendor: id,
        subdevice: id,
        class: bytes,
        classMask: mask,
        overrideOnly: fc.constantFrom(0, 1),
      })
      .map((fields) => pciDeviceId(fields))
      .filter((row) => alias(row) !== undefined);
    const fn = fc.record({ vendor: small, device: small, subvendor: small, subdevice: small, class: bytes });
    fc.assert(
      fc.property(row, fn, (entry, identity) => {
        const pattern = alias(entry) as string;
        expect(parseAliasPattern(pattern)).toBeDefined();
        const modalias = formatModalias(identity, entry.overrideOnly === 1 ? 'vfio_pci' : 'pci');
        expect(fnmatch(pattern, modalias)).toBe(pciMatchOneDevice(entry, identity));
      }),
      { numRuns: 2000 },
    );
  });
});

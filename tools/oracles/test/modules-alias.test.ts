import {
  AliasIndex,
  fnmatch,
  formatModalias,
  parseAliasPattern,
  parseModulesAlias,
  pciDeviceId,
  tableToAliases,
} from '@vfio/core';
import { ids as vfioPciIds } from '@vfio/vfio-pci';
import { describe, expect, test } from 'vitest';
import { aliasFields, ModaliasMaker, recordedVariants, repeatableRandom } from '../src/modules-alias.js';

const text = recordedVariants();
const { aliases, others, skipped } = parseModulesAlias(text);
const index = new AliasIndex(aliases);

/** Which module a kernel with all variants has for a function, by its documentation and not by the file. */
const BEST: readonly (readonly [vendor: number, device: number, module: string])[] = [
  [0x15b3, 0x101e, 'mlx5_vfio_pci'],
  [0x19e5, 0xa251, 'hisi_acc_vfio_pci'],
  [0x19e5, 0xa256, 'hisi_acc_vfio_pci'],
  [0x19e5, 0xa259, 'hisi_acc_vfio_pci'],
  [0x1dd8, 0x1003, 'pds_vfio_pci'],
  [0x1af4, 0x1041, 'virtio_vfio_pci'],
  [0x1af4, 0x1042, 'virtio_vfio_pci'],
  [0x10de, 0x2342, 'nvgrace_gpu_vfio_pci'],
  [0x10de, 0x2345, 'nvgrace_gpu_vfio_pci'],
  [0x10de, 0x2348, 'nvgrace_gpu_vfio_pci'],
  [0x10de, 0x2941, 'nvgrace_gpu_vfio_pci'],
  [0x10de, 0x31c2, 'nvgrace_gpu_vfio_pci'],
  ...[0x4941, 0x4943, 0x4945, 0x4947, 0x4949].map((device) => [0x8086, device, 'qat_vfio_pci'] as const),
  // Their neighbours are nobody's.
  [0x15b3, 0x101d, 'vfio_pci'],
  [0x15b3, 0x1021, 'vfio_pci'],
  [0x8086, 0x4942, 'vfio_pci'],
  [0x1af4, 0x1000, 'vfio_pci'],
  [0x10de, 0x101e, 'vfio_pci'],
];

describe('the vfio_pci: lines of Linux 7.3.4', () => {
  test('are read line by line, all of them', () => {
    const lines = text.trimEnd().split('\n');
    expect(aliases.map(({ pattern, driver }) => `alias ${pattern} ${driver}`)).toEqual(lines);
    expect([others, skipped]).toEqual([0, 0]);
    expect(lines.length).toBeGreaterThan(15);
  });

  test('are what our file2alias writes of the rows that they came from', () => {
    for (const { pattern } of aliases) {
      const fields = parseAliasPattern(pattern);
      expect(fields).toBeDefined();
      const row = pciDeviceId({
        ...(fields?.vendor === undefined ? {} : { vendor: fields.vendor }),
        ...(fields?.device === undefined ? {} : { device: fields.device }),
        overrideOnly: 1,
      });
      expect(tableToAliases([row])).toEqual({ aliases: [pattern], warnings: [] });
    }
  });

  test('have the line of vfio-pci, made of our own table', () => {
    const own = tableToAliases(vfioPciIds).aliases;
    expect(own).toEqual(aliases.filter(({ driver }) => driver === 'vfio_pci').map(({ pattern }) => pattern));
  });

  test.each(BEST)('function %x:%x goes to %s, in any order of lines', (vendor, device, module) => {
    const fn = { vendor, device, subvendor: 0x1af4, subdevice: 0x1100, class: 0x020000 };
    const random = repeatableRandom(vendor ^ device);
    const shuffled = [...aliases];
    for (let i = shuffled.length - 1; i > 0; i--) {
      const j = random(i + 1);
      [shuffled[i], shuffled[j]] = [shuffled[j] as (typeof aliases)[0], shuffled[i] as (typeof aliases)[0]];
    }
    for (const lines of [aliases, [...aliases].reverse(), shuffled]) {
      expect(new AliasIndex(lines).best(fn)?.driver).toBe(module);
    }
    const { winner, candidates } = index.explain(fn);
    expect(winner?.driver).toBe(module);
    // Every one of them also matches the generic driver.
    expect(new Set(candidates.map(({ driver }) => driver))).toEqual(new Set([module, 'vfio_pci']));
  });

  test('match what fnmatch over the text matches, and no pci: line is among them', () => {
    const maker = new ModaliasMaker(
      aliases.map(({ pattern }) => pattern),
      7,
    );
    for (const { pattern } of aliases) {
      for (let i = 0; i < 20; i++) {
        const modalias = maker.fill(pattern) as string;
        const expected = aliases.filter((line) => fnmatch(line.pattern, modalias)).map(({ driver }) => driver);
        expect(new Set(index.lookupModalias(modalias).map(({ driver }) => driver))).toEqual(new Set(expected));
        expect(expected).toContain('vfio_pci');
        expect(index.lookupModalias(modalias.replace('vfio_pci:', 'pci:'))).toEqual([]);
      }
    }
  });
});

describe('the maker of modaliases', () => {
  test('fills wildcards and leaves the rest, the same in each run', () => {
    const patterns = [
      'pci:v00008086d*sv*sd*bc02sc00i00*',
      'vfio_pci:v*d*sv*sd*bc*sc*i*',
      'pci:v00001234d00000001sv*sd*bc*sc*i*',
    ];
    const [one, two] = [new ModaliasMaker(patterns, 3), new ModaliasMaker(patterns, 3)];
    for (const pattern of patterns) {
      const modalias = one.fill(pattern) as string;
      expect(fnmatch(pattern, modalias)).toBe(true);
      expect(two.fill(pattern)).toBe(modalias);
    }
    expect(one.fill('pci:v0000*')).toBeUndefined();
    expect(aliasFields(one.mix('pci'))?.fields).toHaveLength(7);
  });

  test('cuts fields as the modalias of a function has them', () => {
    const fn = { vendor: 0x8086, device: 0x1533, subvendor: 1, subdevice: 2, class: 0x0c0330 };
    expect(aliasFields(formatModalias(fn))).toEqual({
      namespace: 'pci',
      fields: ['00008086', '00001533', '00000001', '00000002', '0C', '03', '30'],
    });
  });
});

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fnmatch } from './fnmatch.js';
import {
  ALIAS_FIELDS,
  aliasFieldOf,
  formatAliasPattern,
  formatModalias,
  type PciAliasPattern,
  parseAliasPattern,
  parseModalias,
} from './modalias.js';

const CX7 = 'v000015B3d00001021sv000015B3sd00000001bc02sc00i00';

describe("a function's modalias", () => {
  test('[1.3.8] is written with ids of 8 and class bytes of 2 upper-case digits', () => {
    const id = { vendor: 0x15b3, device: 0x1021, subvendor: 0x15b3, subdevice: 1, class: 0x020000 };
    expect(formatModalias(id)).toBe(`pci:${CX7}`);
    expect(formatModalias(id, 'vfio_pci')).toBe(`vfio_pci:${CX7}`);
    expect(parseModalias(`pci:${CX7}`)).toEqual({ namespace: 'pci', ...id });
    expect(parseModalias(`vfio_pci:${CX7}`)).toEqual({ namespace: 'vfio_pci', ...id });
  });

  test.each([
    ['', 'empty'],
    [CX7, 'no namespace'],
    [`usb:${CX7}`, 'another bus'],
    [`driver_override_pci:${CX7}`, 'a name that no released kernel writes'],
    [`vfio-pci:${CX7}`, 'a dash'],
    [`pci:${CX7}\n`, 'a newline'],
    [`pci:${CX7}*`, 'a star'],
    [`pci:${CX7.toLowerCase()}`, 'lower-case digits'],
    ['pci:v15B3d1021sv15B3sd0001bc02sc00i00', 'four digits'],
    [`pci:${CX7.slice(0, -1)}`, 'one digit too few'],
    ['pci:v*d*sv*sd*bc*sc*i*', 'a pattern'],
    [`pci:${CX7.replace('sv', 'vs')}`, 'a wrong tag'],
    [`pci:${CX7.replace('bc', 'sc')}`, 'base class under the wrong tag'],
    [`pci:${CX7.replace('i', 'I')}`, 'an upper-case tag'],
    ['pci:d00001021v000015B3sv000015B3sd00000001bc02sc00i00', 'fields in another order'],
    ['pci:v000015B3d00001021sv000015B3sd00000001bc02sc00i0G', 'a digit that is none'],
    ['pci:v000015B3d00001021sv000015B3sd0000000-bc02sc00i00', 'a sign'],
  ])('%j is refused with EINVAL: %s', (text) => {
    expect(() => parseModalias(text)).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_INVALID_ALIAS', errno: 'EINVAL' }),
    );
  });

  const u32 = fc.integer({ min: 0, max: 0xffffffff });
  const identity = fc.record({
    namespace: fc.constantFrom('pci' as const, 'vfio_pci' as const),
    vendor: u32,
    device: u32,
    subvendor: u32,
    subdevice: u32,
    class: fc.integer({ min: 0, max: 0xffffff }),
  });

  test('is read back, whatever the numbers', () => {
    fc.assert(
      fc.property(identity, (id) => {
        expect(parseModalias(formatModalias(id, id.namespace))).toEqual(id);
      }),
    );
  });

  test('with one character changed is refused or another function', () => {
    fc.assert(
      fc.property(identity, fc.nat(57), fc.constantFrom(...'09AFagvpsi:*\n '), (id, at, char) => {
        const text = formatModalias(id, id.namespace);
        const changed = text.slice(0, at) + char + text.slice(at + 1);
        if (at >= text.length || changed === text) return;
        let read: unknown;
        try {
          read = parseModalias(changed);
        } catch {
          return;
        }
        expect(read).not.toEqual(id);
      }),
    );
  });
});

describe('an alias pattern in the form of seven fields', () => {
  const any: PciAliasPattern = {
    namespace: 'vfio_pci',
    vendor: undefined,
    device: undefined,
    subvendor: undefined,
    subdevice: undefined,
    baseClass: undefined,
    subclass: undefined,
    interface: undefined,
  };

  test.each<[string, PciAliasPattern]>([
    ['vfio_pci:v*d*sv*sd*bc*sc*i*', any],
    ['vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*', { ...any, vendor: 0x15b3, device: 0x101e }],
    ['pci:v*d*sv*sd*bc01sc08i02*', { ...any, namespace: 'pci', baseClass: 1, subclass: 8, interface: 2 }],
    ['pci:v*d*sv*sd*bc*sc*i02*', { ...any, namespace: 'pci', interface: 2 }],
    ['pci:vFFFFFFFEd*sv*sd*bc*sc*i*', { ...any, namespace: 'pci', vendor: 0xfffffffe }],
  ])('%s is read and written', (text, pattern) => {
    expect(parseAliasPattern(text)).toEqual(pattern);
    expect(formatAliasPattern(pattern)).toBe(text);
  });

  test('[1.3.6] [12.3] the star that ends a full interface is not part of the field', () => {
    expect(parseAliasPattern('pci:v*d*sv*sd*bc01sc08i02*')?.interface).toBe(2);
    expect(parseAliasPattern('pci:v*d*sv*sd*bc01sc08i02')?.interface).toBe(2);
  });

  test.each([
    'pci:v000015b3d*sv*sd*bc*sc*i*',
    'pci:v15B3d*sv*sd*bc*sc*i*',
    'pci:v0000*d*sv*sd*bc*sc*i*',
    'pci:v*d*sv*sd*bc*sc*i**x',
    'pci:v*d*sv*sd*bc*i*',
    'pci:v*',
    'pci:*',
    'usb:v*d*sv*sd*bc*sc*i*',
    'pci:v*d*sv*sd*bc0?sc*i*',
    'pci:v*d*sv*sd*bc[0]1sc*i*',
    '',
  ])('%j is another form', (text) => {
    expect(parseAliasPattern(text)).toBeUndefined();
  });

  test('matches field by field exactly what fnmatch matches', () => {
    const small = fc.integer({ min: 0, max: 2 });
    const field = fc.option(small, { nil: undefined });
    const pattern = fc.record({
      namespace: fc.constantFrom('pci' as const, 'vfio_pci' as const),
      vendor: field,
      device: field,
      subvendor: field,
      subdevice: field,
      baseClass: field,
      subclass: field,
      interface: field,
    });
    const id = fc.record({
      namespace: fc.constantFrom('pci' as const, 'vfio_pci' as const),
      vendor: small,
      device: small,
      subvendor: small,
      subdevice: small,
      class: fc.tuple(small, small, small).map(([b, s, i]) => (b << 16) | (s << 8) | i),
    });
    fc.assert(
      fc.property(pattern, id, (alias, fn) => {
        const byField =
          alias.namespace === fn.namespace &&
          ALIAS_FIELDS.every(({ name }) => alias[name] === undefined || alias[name] === aliasFieldOf(fn, name));
        expect(fnmatch(formatAliasPattern(alias), formatModalias(fn, fn.namespace))).toBe(byField);
      }),
      { numRuns: 2000 },
    );
  });
});

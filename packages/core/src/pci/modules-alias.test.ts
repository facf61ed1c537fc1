import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  BuiltinModinfoParser,
  concernsPci,
  formatModulesAlias,
  MAX_LINE_LENGTH,
  MAX_WARNINGS,
  ModulesAliasParser,
  parseBuiltinModinfo,
  parseModulesAlias,
} from './modules-alias.js';

const VFIO = 'vfio_pci:v*d*sv*sd*bc*sc*i*';
const MLX5 = 'vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*';

describe('modules.alias', () => {
  test('[1.3.10] lines are alias, pattern and module; comments and empty lines are passed over', () => {
    const text = `# Aliases extracted from modules themselves.\n\nalias ${VFIO} vfio_pci\n  # indented\nalias ${MLX5} mlx5_vfio_pci\n`;
    expect(parseModulesAlias(text)).toEqual({
      aliases: [
        { pattern: VFIO, driver: 'vfio_pci', line: 3 },
        { pattern: MLX5, driver: 'mlx5_vfio_pci', line: 5 },
      ],
      others: 0,
      warnings: [],
      skipped: 0,
    });
  });

  test('aliases of other buses are counted and not kept', () => {
    const text =
      'alias usb:v0001p0001d*dc*dsc*dp*ic*isc*ip*in* a\nalias acpi*:PNP0C0A:* b\nalias virtio:d00000001v* c\nalias pcmcia:m* d\nalias fs-ext4 ext4\n';
    expect(parseModulesAlias(text)).toEqual({ aliases: [], others: 5, warnings: [], skipped: 0 });
  });

  test('a pattern whose stars reach over the prefix is kept: it can match a PCI function', () => {
    for (const pattern of ['*', 'p*', 'pc?:v*', '*:v*', '[pv]*', 'vfio_*', 'v*', '\\pci:v*', 'pci:*']) {
      expect(concernsPci(pattern)).toBe(true);
      expect(parseModulesAlias(`alias ${pattern} m`).aliases).toHaveLength(1);
    }
    for (const pattern of ['pcmcia:*', 'virtio:*', 'vfio-pci:*', 'pci', 'px*', 'vf_*', 'usb:*', '']) {
      expect(concernsPci(pattern)).toBe(false);
    }
  });

  test('CRLF ends a line, tabs and more spaces separate, the last line needs no newline', () => {
    const { aliases, skipped } = parseModulesAlias(
      `# c\r\nalias ${VFIO} vfio_pci\r\n\talias\t ${MLX5}  mlx5_vfio_pci \r\nalias ${VFIO} last`,
    );
    expect(aliases.map(({ driver, line }) => [driver, line])).toEqual([
      ['vfio_pci', 2],
      ['mlx5_vfio_pci', 3],
      ['last', 4],
    ]);
    expect(skipped).toBe(0);
  });

  test.each([
    ['one word', 'garbage'],
    ['two words', `alias ${VFIO}`],
    ['four words', `alias ${VFIO} a b`],
    ['another directive', 'options nvme_core multipath=Y'],
    ['no space after alias', `alias${VFIO} vfio_pci`],
    ['upper case', `ALIAS ${VFIO} vfio_pci`],
    ['binary', '\u0000\u0001\u0002\u007fELF'],
    ['a NUL in the name', `alias ${VFIO} vfio\u0000pci`],
    ['a character beyond ASCII in the pattern', `alias ${VFIO}é vfio_pci`],
    ['too long', `alias ${VFIO} ${'m'.repeat(MAX_LINE_LENGTH)}`],
  ])('a garbage line (%s) is skipped with a warning that names it, and the others count', (_, garbage) => {
    const parsed = parseModulesAlias(`alias ${MLX5} first\n${garbage}\nalias ${VFIO} last\n`);
    expect(parsed.aliases.map(({ driver }) => driver)).toEqual(['first', 'last']);
    expect(parsed.skipped).toBe(1);
    expect(parsed.warnings).toEqual([{ line: 2, message: expect.stringMatching(/^line 2: /) }]);
    expect(parsed.warnings[0]?.message.length).toBeLessThan(200);
  });

  test('of many garbage lines the first hundred are told, all are counted', () => {
    const parsed = parseModulesAlias('x\n'.repeat(1000));
    expect(parsed.warnings).toHaveLength(MAX_WARNINGS);
    expect(parsed.skipped).toBe(1000);
  });

  test('an empty file has no aliases', () => {
    expect(parseModulesAlias('')).toEqual({ aliases: [], others: 0, warnings: [], skipped: 0 });
    expect(new ModulesAliasParser().end().aliases).toEqual([]);
  });

  test('read in pieces, cut anywhere, characters of several bytes too, it is the same', () => {
    const text = `# é—🙂\r\nalias ${MLX5} mlx5_vfio_pci\r\ngarbage é🙂\nalias usb:* u\n\nalias ${VFIO} vfio_pci`;
    const bytes = new TextEncoder().encode(text);
    const whole = parseModulesAlias(bytes);
    expect(whole).toMatchObject({ others: 1, skipped: 1 });
    expect(parseModulesAlias(text)).toEqual(whole);
    for (let cut = 0; cut <= bytes.length; cut++) {
      const parser = new ModulesAliasParser();
      parser.push(bytes.subarray(0, cut));
      parser.push(bytes.subarray(cut));
      expect(parser.end()).toEqual(whole);
    }
    const single = new ModulesAliasParser();
    for (const byte of bytes) single.push(Uint8Array.of(byte));
    expect(single.end()).toEqual(whole);
  });

  test('a line without end does not fill memory: it is one warning, and what follows is read', () => {
    const parser = new ModulesAliasParser();
    for (let i = 0; i < 500; i++) parser.push('x'.repeat(10_000));
    parser.push(`\nalias ${VFIO} vfio_pci\n`);
    const parsed = parser.end();
    expect(parsed.skipped).toBe(1);
    expect(parsed.aliases).toEqual([{ pattern: VFIO, driver: 'vfio_pci', line: 2 }]);
  });

  test('10 MB are read in a moment, in pieces as a file is read', () => {
    const line = (i: number): string =>
      i % 3 === 0
        ? `alias pci:v${hex8(i)}d*sv*sd*bc*sc*i* m${i}\n`
        : `alias usb:v${hex8(i)}p0000d*dc*dsc*dp*ic*isc*ip*in* m${i}\r\n`;
    let text = '# big\n';
    let lines = 0;
    while (text.length < 10_000_000) text += line(lines++);
    const bytes = new TextEncoder().encode(text);
    // Time of the processor: other work on the machine is not what is measured.
    const before = process.cpuUsage();
    const parser = new ModulesAliasParser();
    for (let at = 0; at < bytes.length; at += 65_536) parser.push(bytes.subarray(at, at + 65_536));
    const parsed = parser.end();
    const took = process.cpuUsage(before).user / 1000;
    expect(parsed.skipped).toBe(0);
    expect(parsed.aliases.length + parsed.others).toBe(lines);
    expect(parsed.aliases.length).toBe(Math.ceil(lines / 3));
    expect(took).toBeLessThan(3000);
  });

  test('nothing makes it throw', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 5 }), (chunks) => {
        const parser = new ModulesAliasParser();
        for (const chunk of chunks) parser.push(chunk);
        parser.end();
      }),
    );
  });
});

describe('modules.alias as it is written', () => {
  test('[1.3.9] comments first, then a line for each pattern and driver, each pair once', () => {
    const text = formatModulesAlias(
      [
        { pattern: VFIO, driver: 'vfio-pci' },
        { pattern: MLX5, driver: 'mlx5_vfio_pci' },
        { pattern: VFIO, driver: 'vfio-pci' },
        { pattern: VFIO, driver: 'other' },
      ],
      ['Aliases of installed drivers.', 'Made, do not edit.'],
    );
    expect(text).toBe(
      `# Aliases of installed drivers.\n# Made, do not edit.\nalias ${VFIO} vfio-pci\nalias ${MLX5} mlx5_vfio_pci\nalias ${VFIO} other\n`,
    );
  });

  test('is read back', () => {
    const word = fc.stringMatching(/^pci:[!-~]{1,20}$/);
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.record({ pattern: word, driver: word }), { selector: (l) => `${l.pattern} ${l.driver}` }),
        (lines) => {
          const read = parseModulesAlias(formatModulesAlias(lines, ['c']));
          expect(read.aliases.map(({ pattern, driver }) => ({ pattern, driver }))).toEqual(lines);
          expect(read.skipped).toBe(0);
        },
      ),
    );
  });

  test.each([
    ['a b', 'd'],
    ['a', 'd\n'],
    ['', 'd'],
    ['a', ''],
    ['a\r', 'd'],
    ['é', 'd'],
  ])('what the format cannot hold is refused with EINVAL: %j %j', (pattern, driver) => {
    expect(() => formatModulesAlias([{ pattern, driver }])).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_INVALID_ALIAS', errno: 'EINVAL' }),
    );
  });

  test('a comment of several lines stays a comment', () => {
    expect(formatModulesAlias([], ['a\nalias x y\r\nb'])).toBe('# a\n# alias x y\n# b\n');
  });
});

describe('modules.builtin.modinfo', () => {
  const records = [
    'nvme.license=GPL',
    `vfio_pci.alias=${VFIO}`,
    'ext4.alias=fs-ext4',
    'usb_hid.alias=usb:v*',
    `a-b.alias=${MLX5}`,
    'nvme.parm=x:y.z=1',
    'loop.description=a.alias=pci:*',
  ];

  test('[1.3.11] records end in NUL; the alias records of PCI are kept with their module', () => {
    expect(parseBuiltinModinfo(`${records.join('\0')}\0`)).toEqual({
      aliases: [
        { pattern: VFIO, driver: 'vfio_pci', line: 2 },
        { pattern: MLX5, driver: 'a-b', line: 5 },
      ],
      others: 2,
      warnings: [],
      skipped: 0,
    });
  });

  test('a record that is none is skipped with a warning that names it; a long one of another key is no warning', () => {
    const text = [
      'garbage',
      '=x',
      '.alias=pci:*',
      'm.parm=',
      `m.description=${'x'.repeat(9000)}`,
      `m.alias=pci:${'x'.repeat(9000)}`,
      'm.alias=pci:\u0001*',
      `m.alias=${VFIO}`,
    ].join('\0');
    const parsed = parseBuiltinModinfo(text);
    expect(parsed.warnings.map(({ line }) => line)).toEqual([1, 2, 3, 6, 7]);
    expect(parsed.warnings[0]?.message).toMatch(/^record 1: /);
    expect(parsed.aliases).toEqual([{ pattern: VFIO, driver: 'm', line: 8 }]);
  });

  test('read in pieces it is the same', () => {
    const bytes = new TextEncoder().encode(records.join('\0'));
    const parser = new BuiltinModinfoParser();
    for (const byte of bytes) parser.push(Uint8Array.of(byte));
    expect(parser.end()).toEqual(parseBuiltinModinfo(bytes));
  });
});

function hex8(value: number): string {
  return value.toString(16).toUpperCase().padStart(8, '0');
}

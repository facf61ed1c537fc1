import * as fc from 'fast-check';
import { FEATURES } from '../../src/index.js';

const hex = (digits: number) =>
  fc.integer({ min: 0, max: 16 ** digits - 1 }).map((value) => value.toString(16).padStart(digits, '0'));
const vendor = hex(4).filter((text) => text !== 'ffff');

const word = fc.stringMatching(/^[a-z0-9]{1,6}$/);
const name = fc
  .tuple(fc.stringMatching(/^[a-z][a-z0-9]{0,5}$/), fc.array(word, { maxLength: 3 }))
  .map(([first, others]) => [first, ...others].join('-').slice(0, 24).replace(/-$/, ''))
  .filter((text) => text !== 'vfio' && !text.endsWith('-vfio-pci'));

const id = fc.oneof(
  fc.tuple(vendor, hex(4)).map((parts) => parts.join(':')),
  fc.tuple(vendor, hex(4), hex(4), hex(4)).map((parts) => parts.join(':')),
);

/** Sentences, with what means something in code, JSON, Markdown and templates among their characters. */
const description = fc
  .string({
    unit: fc.oneof(
      fc.constantFrom(
        '`',
        '${',
        '{{',
        '}}',
        '{{name}}',
        '%% if a',
        '*/',
        '//',
        '"',
        "'",
        '\\',
        '<b>',
        '[x](y)',
        '|',
        '\u{1f600}',
      ),
      fc.stringMatching(/^[ -~]$/),
    ),
    minLength: 1,
    maxLength: 12,
  })
  .filter((text) => text.trim() !== '');

/** Whatever a driver may be asked for as. */
export const options = fc.record(
  {
    name,
    scope: fc.constantFrom('@acme', '@vfio', '@a.b-c_d'),
    ids: fc.array(id, { minLength: 1, maxLength: 5 }),
    classes: fc.array(fc.oneof(hex(2), hex(4), hex(6)), { maxLength: 3 }),
    features: fc.subarray([...FEATURES]),
    requires: fc.array(fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,8}$/), { maxLength: 2 }),
    description,
  },
  { requiredKeys: ['name', 'ids'] },
);

import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { GeneratorError } from '../src/index.js';
import { distinctRows, parseClass, parseId, readRows, rowTable } from '../src/match.js';
import { options } from './helpers/arbitrary.js';

test.each([
  '',
  '19e5',
  '0x19e5:0xa251',
  '19e5:a25',
  '19e5:a251:1',
  '19e5-a251',
  '19e5:a251:',
  '*:*',
  'ffff:0001',
  '19e5:a251\n',
])('the id %j is refused', (id) => expect(() => parseId(id)).toThrow(GeneratorError));

test.each(['', '1', '010', '01080200', '0x0108', 'xy', '01 08'])('the class %j is refused', (code) =>
  expect(() => parseClass(code)).toThrow(GeneratorError),
);

test('an id is the same in upper case, and rows that are given twice are there once', () => {
  expect(
    distinctRows([parseId('19E5:A251'), parseId('19e5:a251'), parseClass('0C03'), parseClass('0c03')]),
  ).toHaveLength(2);
});

test('an id table is read back as the rows that it was made of', () => {
  fc.assert(
    fc.property(options, ({ ids, classes = [] }) => {
      const rows = distinctRows([...ids.map(parseId), ...classes.map(parseClass)]);
      expect(readRows(rowTable(rows, 44))).toEqual(rows);
    }),
  );
});

test('a table that was written by hand is not taken for a generated one', () => {
  expect(readRows('export const ids = [pciDeviceClass(1, 2)];')).toEqual([]);
});

import { expect, test } from 'vitest';
import { median, ratios } from '../src/statistics.js';

test('the median is an element, also of an even list', () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 3, 2])).toBe(2);
});

test('ratios pair rounds and leave out a round that the other did not reach', () => {
  expect(ratios([2, 6, 9], [1, 2])).toEqual([2, 3]);
});

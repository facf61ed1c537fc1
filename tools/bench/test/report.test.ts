import { expect, test } from 'vitest';
import { costs, row, toText } from '../src/report.js';

const measured = (p50: number, perSecond: number) => ({
  read: { count: 1, perSecond, p50, p90: p50, p99: p50, max: p50 },
});

test('costs are taken by server and round, as p50 or as the time for each', () => {
  const rounds = [
    { floor: measured(10, 50_000), ours: measured(11, 40_000) },
    { ours: measured(12, 20_000), floor: measured(9, 100_000) },
  ];
  expect(costs(['floor', 'ours'], rounds, 'read', 'p50')).toEqual({ floor: [10, 9], ours: [11, 12] });
  expect(costs(['floor', 'ours'], rounds, 'read', 'each')).toEqual({ floor: [20, 10], ours: [25, 50] });
  expect(() => costs(['floor'], rounds, 'write', 'p50')).toThrow('no "write"');
});

test('a row has the middle of the rounds, and of the ratios of each round', () => {
  // The second round was slow for both: the ratio does not care.
  const { values, ratios, isMet } = row('read', 'us', { floor: [10, 40, 10], ours: [11, 44, 12] });
  expect(values).toEqual({ floor: 10, ours: 12 });
  expect(ratios['floor']).toBeCloseTo(1.1);
  expect(isMet).toBeUndefined();
});

test.each([
  ['the ratio to the floor', { ratio: 1.2 }, true],
  ['a smaller ratio to the floor', { ratio: 1.1 }, false],
  ['the ratio to the peer', { ratio: 1.2, toPeer: 1 }, true],
  ['a smaller ratio to the peer', { ratio: 1.2, toPeer: 0.8 }, false],
  ['a value', { value: 12 }, true],
  ['a smaller value', { value: 11 }, false],
])('a bound on %s is checked', (_, bound, isMet) => {
  expect(row('read', 'us', { floor: [10], ours: [12], peer: [14] }, bound).isMet).toBe(isMet);
});

test('a bound on a peer is kept where there is none', () => {
  expect(row('read', 'us', { floor: [10], ours: [12] }, { toPeer: 0.1 }).isMet).toBe(true);
});

test('a number that is not there misses its bound', () => {
  expect(row('memory', 'MB', { ours: Number.NaN }, { value: 150 }).isMet).toBe(false);
});

test('a row is one line for people', () => {
  const read = row('read', 'us', { floor: [10], ours: [11.5], peer: [230] }, { ratio: 1.2, toPeer: 1 });
  expect(toText(read).replace(/ +/g, ' ')).toBe(
    'read floor 10.00 us (ours 1.15x) ours 11.50 us peer 230 us (ours 0.05x) at most 1.20x the floor, 1.00x the peer: kept',
  );
  expect(toText(row('scavenges', '', { ours: 2 }, { value: 0 }))).toMatch(/ours 2.00 {3}at most 0: MISSED$/);
});

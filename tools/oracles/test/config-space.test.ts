import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { bareTarget } from '../src/config-space-bare.js';
import { readRecordings } from '../src/config-space-recording.js';
import { replay } from '../src/config-space-replay.js';

const recordings = readRecordings();

describe('virtual config space alone answers as the kernel did', () => {
  test.for(recordings)('$name', async (recording) => {
    expect(await replay(recording, bareTarget(recording))).toEqual([]);
  });
});

test('the recordings of this repository are 24 functions and 14,261 accesses', () => {
  const own = readRecordings(fileURLToPath(new URL('../vectors', import.meta.url)));
  expect(own).toHaveLength(24);
  expect(own.reduce((sum, { ops }) => sum + ops.length, 0)).toBe(14_261);
});

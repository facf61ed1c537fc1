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

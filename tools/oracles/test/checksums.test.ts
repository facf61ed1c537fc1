import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../vectors', import.meta.url));
const list = new Map(
  readFileSync(new URL('../SHA256SUMS', import.meta.url), 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const match = /^([0-9a-f]{64}) [ *]\.\/(.+)$/.exec(line);
      if (match === null) throw new Error(`SHA256SUMS has a line that is no checksum: ${line}`);
      return [match[2]!, match[1]!];
    }),
);
const files = readdirSync(root, { recursive: true, withFileTypes: true })
  .filter((entry) => !entry.isDirectory())
  .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'))
  .sort();

describe('the recordings are the ones that were made', () => {
  test('every file is listed, and every listed file is there', () => {
    expect(files).toEqual([...list.keys()].sort());
  });

  test.for(files)('%s has its checksum', (file) => {
    const sum = createHash('sha256')
      .update(readFileSync(join(root, file)))
      .digest('hex');
    expect(sum).toBe(list.get(file));
  });
});

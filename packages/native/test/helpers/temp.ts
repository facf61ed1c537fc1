import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

/** A folder of the test's own, with a short path (a socket's has at most 107 bytes), removed when the test ends. */
export function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'vn-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

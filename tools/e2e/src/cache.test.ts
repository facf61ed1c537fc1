import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cacheRoot, ensureStage, recipeKey, type Stage, withLock } from './cache.js';

let cache: string;
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'cache-'));
});
afterEach(() => rmSync(cache, { recursive: true, force: true }));

function stage(key: string, body: (folder: string) => void = () => undefined): Stage<{ key: string }> {
  return {
    name: 'thing',
    key,
    make: async (folder) => {
      body(folder);
      return { key };
    },
  };
}

test('the cache is where the variable says, else in the cache folder of the user', () => {
  expect(cacheRoot({ VFIO_E2E_CACHE: '/somewhere' })).toBe('/somewhere');
  expect(cacheRoot({ XDG_CACHE_HOME: '/xdg' })).toBe('/xdg/vfio-e2e');
  expect(cacheRoot({})).toMatch(/\/\.cache\/vfio-e2e$/);
});

test('a recipe is another one when any part of it changes or moves', () => {
  const keys = [['a', 'b'], ['b', 'a'], ['ab'], ['a', 'b', ''], ['a', 'c']].map((parts) => recipeKey(parts));
  expect(new Set(keys).size).toBe(keys.length);
  expect(recipeKey(['a', 'b'])).toBe(keys[0]);
});

test('what is there is not made again; another recipe is', async () => {
  const first = await ensureStage(
    cache,
    stage('one', (folder) => writeFileSync(join(folder, 'result'), '1')),
  );
  expect(first).toMatchObject({ made: true, manifest: { key: 'one' } });
  const again = await ensureStage(
    cache,
    stage('one', () => expect.unreachable('made twice')),
  );
  expect(again).toEqual({ ...first, made: false });
  expect(existsSync(join(again.folder, 'result'))).toBe(true);
  expect((await ensureStage(cache, stage('two'))).made).toBe(true);
});

test('a recipe that failed half-way leaves nothing that counts as made', async () => {
  const failing = stage('one', (folder) => {
    writeFileSync(join(folder, 'half'), '');
    throw new Error('no network');
  });
  await expect(ensureStage(cache, failing)).rejects.toThrow('no network');
  const made = await ensureStage(cache, stage('one'));
  expect(made.made).toBe(true);
  expect(readdirSync(made.folder)).toEqual(['manifest.json']);
});

test('results that nobody used for two weeks go when a new one is made; younger ones and other stages stay', async () => {
  const old = await ensureStage(cache, stage('old'));
  await ensureStage(cache, stage('young'));
  mkdirSync(join(cache, 'other-stage'));
  const longAgo = new Date(Date.now() - 15 * 86_400_000);
  utimesSync(join(old.folder, 'manifest.json'), longAgo, longAgo);
  await ensureStage(cache, stage('new'));
  expect(readdirSync(cache).sort()).toEqual(['other-stage', 'thing-new', 'thing-young']);
});

test('the lock lets one in at a time and is free again after an error', async () => {
  const file = join(cache, 'lock');
  let inside = 0;
  let most = 0;
  const enter = () =>
    withLock(file, async () => {
      most = Math.max(most, ++inside);
      await new Promise((resolve) => setTimeout(resolve, 20));
      inside--;
    });
  await Promise.all([enter(), enter(), enter()]);
  expect(most).toBe(1);
  await expect(withLock(file, () => Promise.reject(new Error('inside')))).rejects.toThrow('inside');
  expect(await withLock(file, async () => 'free')).toBe('free');
});

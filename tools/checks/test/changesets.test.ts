import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ROOT } from '../src/markdown.js';

const packages = readdirSync(join(ROOT, 'packages')).map((folder) => {
  const manifest = readFileSync(join(ROOT, 'packages', folder, 'package.json'), 'utf8');
  return { folder, name: (JSON.parse(manifest) as { name: string }).name };
});

/** A changeset: the packages that it names, with their kind of change, and what it says. */
interface Changeset {
  readonly file: string;
  readonly bumps: ReadonlyMap<string, string>;
  readonly text: string;
}

const changesets = readdirSync(join(ROOT, '.changeset'))
  .filter((file) => file.endsWith('.md') && file !== 'README.md')
  .map((file): Changeset => {
    const content = readFileSync(join(ROOT, '.changeset', file), 'utf8');
    const [, head = '', text = ''] = /^---\n([\s\S]*?)\n---\n([\s\S]*)$/.exec(content) ?? [];
    const lines = head.split('\n').map((line) => /^['"]?(@vfio\/[\w-]+)['"]?: (\w+)$/.exec(line));
    return { file, text: text.trim(), bumps: new Map(lines.map((line) => [line?.[1] ?? '', line?.[2] ?? ''])) };
  });

describe.each(changesets)('the changeset $file', ({ bumps, text }) => {
  test('names packages that are there, each with a kind of change, and says what changes', () => {
    const known = packages.map(({ name }) => name);
    for (const [name, kind] of bumps) {
      expect(known).toContain(name);
      expect(['major', 'minor', 'patch']).toContain(kind);
    }
    expect(text).toMatch(/^[A-Z`].{20,}/);
  });
});

const git = (...args: string[]): string => execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).trim();

test.each(packages)('$name: sources that changed since the last release have a changeset', ({ folder, name }) => {
  const changelog = `packages/${folder}/CHANGELOG.md`;
  if (existsSync(join(ROOT, changelog))) {
    // A release writes it; what is in the working tree counts as well.
    const release = git('log', '-1', '--format=%H', '--', changelog);
    if (release !== '' && git('diff', '--name-only', release, '--', `packages/${folder}/src`) === '') return;
  }
  expect(changesets.filter(({ bumps }) => bumps.has(name)).map(({ file }) => file)).not.toEqual([]);
});

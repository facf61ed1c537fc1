import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { anchors, links, pages, prose, ROOT } from '../src/markdown.js';

const all = pages();

/** What is wrong with the links of a page that lead into the repository. */
function deadLinks(path: string, text: string): string[] {
  return links(text).flatMap((target) => {
    if (/^[a-z]+:/.test(target)) return [];
    const [file = '', anchor] = target.split('#');
    const place = file === '' ? join(ROOT, path) : resolve(ROOT, dirname(path), file);
    if (!place.startsWith(ROOT) || !existsSync(place)) return [`${target}: no such file`];
    if (anchor === undefined || !place.endsWith('.md')) return [];
    return anchors(file === '' ? text : readFileSync(place, 'utf8')).includes(anchor)
      ? []
      : [`${target}: no such heading`];
  });
}

describe('links', () => {
  test.each(all.map(({ path, text }) => [path, text]))('of %s lead to something', (path, text) => {
    expect(deadLinks(path, text)).toEqual([]);
  });

  test('that are dead are found: a file, a heading, a place outside', () => {
    const page = '# Top\n\n[a](nosuch.md) [b](#top) [c](#nosuch) [d](../../etc) [e](https://example.org/x)';
    expect(deadLinks('README.md', page)).toEqual([
      'nosuch.md: no such file',
      '#nosuch: no such heading',
      '../../etc: no such file',
    ]);
  });
});

test.each(all)('files of this repository that $path names exist', ({ text }) => {
  const named = [...text.matchAll(/`((?:packages|tools|docs|\.ci)\/[\w./-]+)`/g)].map(([, name = '']) => name);
  expect(named.filter((name) => !existsSync(join(ROOT, name)) && !isGenerated(name))).toEqual([]);
  expect(prose(text)).not.toMatch(/\]\(\/|\]\(file:/);
});

/** Results of the build are not there before it. */
const isGenerated = (name: string): boolean => /\/(dist|build|prebuilds)(\/|$)/.test(name);

test('every page of docs can be reached from the README', () => {
  const reached = new Set<string>();
  const visit = (path: string): void => {
    if (reached.has(path) || !path.endsWith('.md')) return;
    reached.add(path);
    const page = all.find((one) => one.path === path);
    for (const target of links(page?.text ?? '')) {
      if (!/^[a-z]+:|^#/.test(target)) visit(relative(ROOT, resolve(ROOT, dirname(path), target.split('#')[0] ?? '')));
    }
  };
  visit('README.md');
  expect(all.map(({ path }) => path).filter((path) => path.startsWith('docs/') && !reached.has(path))).toEqual([]);
});

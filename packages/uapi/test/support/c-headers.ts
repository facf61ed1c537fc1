import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const INCLUDE = '/usr/include/linux';
const HEADERS = ['pci_regs.h', 'vfio.h', 'vfio_zdev.h'];

/** Why the system's headers cannot be compared with, or `undefined` where they can. */
export function whyNoHeaders(): string | undefined {
  const missing = HEADERS.filter((name) => !existsSync(join(INCLUDE, name)));
  if (missing.length > 0) return `${missing.join(', ')} not in ${INCLUDE} (Debian: linux-libc-dev)`;
  try {
    execFileSync('gcc', ['--version'], { stdio: 'ignore' });
    return undefined;
  } catch {
    return 'no gcc';
  }
}

/** The text of the headers without comments. */
export function headerText(): string {
  return HEADERS.map((name) => readFileSync(join(INCLUDE, name), 'utf8'))
    .join('\n')
    .replace(/\/\*[\s\S]*?\*\//g, ' ');
}

/** Object-like macros and enumerators with one of the prefixes. */
export function headerNames(text: string, prefixes: RegExp): Set<string> {
  const names = new Set<string>();
  for (const [, name] of text.matchAll(/^[ \t]*#[ \t]*define[ \t]+(\w+)(?!\()[ \t]+\S/gm)) names.add(name!);
  for (const [, body] of text.matchAll(/\benum\b[^{;]*\{([^}]*)\}/g)) {
    for (const [, name] of body!.matchAll(/\b([A-Z][A-Z0-9_a-z]*)\b\s*(?:=[^,}]*)?(?:,|$)/g)) names.add(name!);
  }
  return new Set([...names].filter((name) => prefixes.test(name)));
}

/** Members of a struct, those of inner unions included; `undefined` where the headers do not have it. */
export function structMembers(text: string, name: string): Set<string> | undefined {
  const start = new RegExp(`\\bstruct\\s+${name}\\s*\\{`).exec(text);
  if (start === null) return undefined;
  let depth = 1;
  let end = start.index + start[0].length;
  for (; depth > 0 && end < text.length; end++) {
    if (text[end] === '{') depth++;
    if (text[end] === '}') depth--;
  }
  const body = text.slice(start.index + start[0].length, end - 1);
  return new Set(
    [...body.matchAll(/\b(\w+)\s*(?:\[[^\]]*\])?\s*(?:__\w+\([^)]*\))?\s*;/g)].map(([, member]) => member!),
  );
}

/** Compiles and runs a C program that prints `key value` lines; the values by key. */
export function printed(lines: readonly string[]): Map<string, string> {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-uapi-'));
  try {
    const source = [
      '#include <stddef.h>',
      '#include <stdio.h>',
      ...HEADERS.map((name) => `#include <linux/${name}>`),
      'int main(void) {',
      ...lines,
      'return 0; }',
    ].join('\n');
    writeFileSync(join(folder, 'golden.c'), source);
    execFileSync('gcc', ['-o', join(folder, 'golden'), join(folder, 'golden.c')], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const out = execFileSync(join(folder, 'golden'), { encoding: 'utf8' });
    return new Map(
      out
        .trimEnd()
        .split('\n')
        .map((line) => {
          const blank = line.indexOf(' ');
          return [line.slice(0, blank), line.slice(blank + 1)] as const;
        }),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}

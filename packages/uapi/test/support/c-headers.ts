import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const INCLUDE = '/usr/include/linux';
const HEADERS = ['pci_regs.h', 'vfio.h', 'vfio_zdev.h'];
/** What newer ones of them use and do not include themselves. */
const NEEDED_BY_HEADERS = ['linux/const.h', 'asm/bitsperlong.h', 'linux/bits.h'];

/** Version of the kernel that the headers are from; `[0, 0]` where they do not say. */
export function headerVersion(): readonly [major: number, minor: number] {
  const file = join(INCLUDE, 'version.h');
  const [, code] = /LINUX_VERSION_CODE\s+(\d+)/.exec(existsSync(file) ? readFileSync(file, 'utf8') : '') ?? [];
  return code === undefined ? [0, 0] : [Number(code) >> 16, (Number(code) >> 8) & 0xff];
}

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
      ...NEEDED_BY_HEADERS.map((name) => `#if __has_include(<${name}>)\n#include <${name}>\n#endif`),
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

import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

export const ROOT = resolve(import.meta.dirname, '../../..');

/** A block of code in a page. */
export interface CodeBlock {
  readonly language: string;
  /** The file of this repository that the code is from, named behind the language: "```ts packages/x/src/y.ts". */
  readonly file: string | undefined;
  readonly code: string;
  /** Of its first line of code, from 1. */
  readonly line: number;
}

export interface Page {
  /** From the root of the repository. */
  readonly path: string;
  readonly text: string;
}

/** Folders that are not the repository's own: what was installed, built or kept for later, and what is wrong on purpose. */
const PASSED_OVER = new Set(['node_modules', 'dist', 'build', 'fixtures', '.changeset', '.git', '.nx', '.cache']);

/** Every page of the repository. */
export function pages(folder = ''): Page[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return PASSED_OVER.has(entry.name) ? [] : pages(path);
    if (!path.endsWith('.md') || entry.name === 'CHANGELOG.md') return [];
    return [{ path, text: readFileSync(join(ROOT, path), 'utf8') }];
  });
}

/** The fenced blocks of a page. */
export function codeBlocks(text: string): CodeBlock[] {
  const blocks: CodeBlock[] = [];
  for (const match of text.matchAll(/^```(\S*)[ \t]*(\S*)[^\n]*\n([\s\S]*?)^```$/gm)) {
    const line = text.slice(0, match.index).split('\n').length + 1;
    const [, language = '', file, code = ''] = match;
    blocks.push({ language, file: file === '' ? undefined : file, code, line });
  }
  return blocks;
}

/** What a page says, without its code. */
export const prose = (text: string): string =>
  text.replaceAll(/^```[\s\S]*?^```$/gm, '').replaceAll(/`[^`\n]*`/g, (code) => code.replaceAll(/[[\]()]/g, ' '));

/** Targets of the links of a page. */
export const links = (text: string): string[] =>
  [...prose(text).matchAll(/\[[^\]]*\]\(([^)\s]+)\)/g)].map(([, target = '']) => target);

/** Anchors of the headings of a page, as GitHub makes them. */
export function anchors(text: string): string[] {
  const headings = text.replaceAll(/^```[\s\S]*?^```$/gm, '').matchAll(/^#+ +(.*)$/gm);
  return [...headings].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

/** The commands of a shell block: comments gone, continued lines joined. */
export function commands(code: string): string[] {
  return code
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .map((line) => line.replace(/(^|\s+)#.*$/, '').trim())
    .filter((line) => line !== '');
}

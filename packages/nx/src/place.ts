import { lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { GeneratorError } from './error.js';

/**
 * A folder below where the generator runs, as it was given: relative, with `/`, and nothing that leads out.
 *
 * @returns it without `./` and a slash at its end; `.` for where the generator runs itself.
 * @throws GeneratorError
 */
export function checkDirectory(text: string): string {
  const bad = (why: string) => new GeneratorError(`the directory ${JSON.stringify(text)} ${why}`);
  if (text.trim() === '' || text.length > 1024) throw bad('must be the path of a folder');
  if (/^[/~]|^[A-Za-z]:/.test(text)) throw bad('must be relative: go to the folder above it first');
  if (/[\p{Cc}\\:*?"<>|]/u.test(text)) throw bad('has a character that paths do not have everywhere');
  const parts = text.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw bad('must not lead out of where the generator runs: go there first');
  if (parts.some((part) => part === '.git' || part === 'node_modules')) throw bad('is in a folder of git or npm');
  return parts.length === 0 ? '.' : parts.join('/');
}

/**
 * What a path below a root is. On the way to it only folders may be: a symbolic link could lead anywhere.
 *
 * @throws GeneratorError
 */
export function kindOf(root: string, path: string): 'folder' | 'file' | undefined {
  const parts = path === '.' ? [] : path.split('/');
  for (let count = 1; count <= parts.length; count++) {
    const part = parts.slice(0, count).join('/');
    const stat = lstatSync(join(root, part), { throwIfNoEntry: false });
    if (stat === undefined) return undefined;
    if (stat.isSymbolicLink()) throw new GeneratorError(`${part} is a symbolic link; nothing is written through one`);
    if (stat.isDirectory()) continue;
    if (count === parts.length && stat.isFile()) return 'file';
    throw new GeneratorError(`${part} is in the way: it is not a ${count === parts.length ? 'file or ' : ''}folder`);
  }
  return 'folder';
}

/** Whether a folder has nothing of its owner's: a repository that was just begun counts as empty. */
export function isEmptyFolder(path: string): boolean {
  return readdirSync(path).every((name) => name === '.git');
}

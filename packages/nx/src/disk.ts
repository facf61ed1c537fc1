import { existsSync, mkdirSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { GeneratorError } from './error.js';
import type { DriverOptions } from './options.js';
import { isEmptyFolder, kindOf } from './place.js';
import { type Plan, planMore, planNew } from './plan.js';
import type { Setting } from './render.js';

/**
 * Plans a driver in a folder below `root`, which may be there already.
 *
 * @throws GeneratorError
 */
export function planOnDisk(root: string, directory: string, options: DriverOptions, setting: Setting): Plan {
  const kind = kindOf(root, directory);
  if (kind === 'file') throw new GeneratorError(`${directory} is a file`);
  const target = join(root, directory);
  if (kind === undefined || isEmptyFolder(target)) return planNew(options, setting);
  return planMore(options, setting, (path) =>
    kindOf(root, join(directory, path)) === 'file' ? readFileSync(join(target, path), 'utf8') : undefined,
  );
}

/**
 * Writes files below `root`: all of them, or where one cannot be written none.
 *
 * @param replaced paths of those that are there and may be replaced.
 * @throws GeneratorError; what the system said is its cause.
 */
export function writeFiles(root: string, files: ReadonlyMap<string, string>, replaced: ReadonlySet<string>): void {
  // All new content lies beside its place before the first file is put there.
  const staged: { readonly path: string; readonly temporary: string }[] = [];
  const folders: string[] = [];
  const created: string[] = [];
  const before = new Map<string, Buffer>();
  try {
    for (const [path, content] of files) {
      const kind = kindOf(root, path);
      if (kind !== undefined && !(kind === 'file' && replaced.has(path)))
        throw new GeneratorError(`${path} is there already`);
      const target = join(root, path);
      makeFolders(dirname(target), folders);
      const temporary = `${target}.${process.pid}.tmp`;
      staged.push({ path: target, temporary });
      writeFileSync(temporary, content, { flag: 'wx' });
      if (kind === 'file') before.set(target, readFileSync(target));
    }
    for (const { path, temporary } of staged) {
      renameSync(temporary, path);
      if (!before.has(path)) created.push(path);
    }
  } catch (error) {
    for (const { temporary } of staged) rmSync(temporary, { force: true });
    for (const path of created) rmSync(path, { force: true });
    for (const [path, content] of before) writeFileSync(path, content);
    for (const folder of folders.reverse()) rmdirSync(folder);
    if (error instanceof GeneratorError) throw error;
    throw new GeneratorError(`nothing was written: ${(error as Error).message}`, { cause: error });
  }
}

/** Makes a folder and those above it, and notes those that it made. */
function makeFolders(folder: string, made: string[]): void {
  const missing: string[] = [];
  for (let at = folder; !existsSync(at); at = dirname(at)) missing.push(at);
  for (const one of missing.reverse()) {
    mkdirSync(one);
    made.push(one);
  }
}

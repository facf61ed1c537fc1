import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** The folder outside the checkout that keeps QEMU, kernels and guest images between runs. */
export function cacheRoot(env: NodeJS.ProcessEnv = process.env): string {
  const { VFIO_E2E_CACHE, XDG_CACHE_HOME } = env;
  return VFIO_E2E_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'vfio-e2e');
}

/** Hashes a recipe: everything that, when changed, must make the result again. */
export function recipeKey(parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) {
    hash.update(`${part.length}:`);
    hash.update(part);
  }
  return hash.digest('hex').slice(0, 16);
}

/**
 * Holds an exclusive lock on `file` while `body` runs; other processes wait.
 * The lock is the kernel's (flock), held by a child that ends when our end of its pipe is closed, so a run that was
 * killed leaves nothing locked.
 */
export async function withLock<T>(file: string, body: () => Promise<T>): Promise<T> {
  const holder = spawn('flock', ['--exclusive', file, 'sh', '-c', 'echo held; exec cat >/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(holder, 'close');
  try {
    await Promise.race([
      once(holder.stdout, 'data'),
      ended.then(([code]) => {
        throw new Error(`flock ${file}: ended with ${String(code)} before it held the lock`);
      }),
    ]);
    return await body();
  } finally {
    holder.stdin.end();
    await ended.catch(() => undefined);
  }
}

/** One result in the cache: a folder named by its recipe, complete or absent. */
export interface Stage<M> {
  /** `tools`, `guest`: the first part of the folder's name. */
  name: string;
  /** {@link recipeKey} of everything it is made from. */
  key: string;
  /** Fills the empty folder and returns the manifest to keep with it. */
  make(folder: string): Promise<M>;
}

export interface StageResult<M> {
  folder: string;
  manifest: M;
  /** Whether this call made it. */
  made: boolean;
}

const MANIFEST = 'manifest.json';
/** A result nobody used for this long is of a recipe that is gone. */
const KEEP_DAYS = 14;

/** Gives the stage's folder, making it where it is missing. The caller holds the cache's lock. */
export async function ensureStage<M>(cache: string, stage: Stage<M>): Promise<StageResult<M>> {
  const folder = join(cache, `${stage.name}-${stage.key}`);
  const manifestFile = join(folder, MANIFEST);
  if (existsSync(manifestFile)) {
    const now = new Date();
    utimesSync(manifestFile, now, now);
    return { folder, manifest: JSON.parse(readFileSync(manifestFile, 'utf8')) as M, made: false };
  }
  // Made under another name and renamed when complete: a run that dies half-way leaves no half result.
  const partial = `${folder}.partial`;
  rmSync(partial, { recursive: true, force: true });
  mkdirSync(partial, { recursive: true });
  const manifest = await stage.make(partial);
  await writeFile(join(partial, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  rmSync(folder, { recursive: true, force: true });
  renameSync(partial, folder);
  dropUnused(cache, stage.name, folder);
  return { folder, manifest, made: true };
}

function dropUnused(cache: string, name: string, keep: string): void {
  for (const entry of readdirSync(cache)) {
    const folder = join(cache, entry);
    if (!entry.startsWith(`${name}-`) || folder === keep) continue;
    const used = statSync(join(folder, MANIFEST), { throwIfNoEntry: false })?.mtimeMs ?? 0;
    if (Date.now() - used > KEEP_DAYS * 86_400_000) rmSync(folder, { recursive: true, force: true });
  }
}

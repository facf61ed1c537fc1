import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../../..', import.meta.url));
export const BIN = join(ROOT, 'node_modules/.bin');

/** Runs a program in a folder, with nothing of what this run was told by its own runner. */
export function run(cwd: string, env: Readonly<Record<string, string>>, command: string, ...args: string[]) {
  const { NODE_OPTIONS: _, VITEST: __, FORCE_COLOR: ___, npm_config_user_agent: ____, ...inherited } = process.env;
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env: { ...inherited, NO_COLOR: '1', ...env },
  });
  return { status, stdout, output: stdout + stderr };
}

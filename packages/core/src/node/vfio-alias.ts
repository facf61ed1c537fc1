import { parseArgs } from 'node:util';
import { messageOf } from '@vfio/uapi';
import { buildAliasFiles } from './build-alias.js';
import { NODE_CONDITIONS } from './package-exports.js';

const USAGE = `Usage: vfio-alias [options] [directory]

Builds the alias files that a driver package declares in the "vfio" field of its package.json, from the id tables of
the drivers that it exports. Run it in the package's build, after its code is built.

  directory          the package (default: the working directory)
  --check            write nothing; exit code 1 if a file is missing or out of date
  -C, --conditions   a condition of "exports" under which drivers are imported, besides Node's own; repeatable
  -q, --quiet        say nothing but what is wrong
  -h, --help         show this

Exit codes: 0 done, 1 failed, 2 wrong usage.
`;

/** Where the command writes. */
export interface AliasCommandIo {
  out(text: string): void;
  err(text: string): void;
}

/** The command `vfio-alias`. Returns the exit code: 0 done, 1 failed, 2 wrong usage. */
export async function main(args: readonly string[], io: AliasCommandIo): Promise<0 | 1 | 2> {
  let parsed: ReturnType<typeof parse>;
  try {
    parsed = parse(args);
  } catch (error) {
    io.err(`vfio-alias: ${messageOf(error)}\n\n${USAGE}`);
    return 2;
  }
  const { values, positionals } = parsed;
  if (values.help === true) {
    io.out(USAGE);
    return 0;
  }
  if (positionals.length > 1) {
    io.err(`vfio-alias: one directory at most, not ${positionals.length}\n\n${USAGE}`);
    return 2;
  }
  const { conditions = [], check = false, quiet = false } = values;
  try {
    const files = await buildAliasFiles(positionals[0] ?? '.', {
      check,
      ...(conditions.length === 0 ? {} : { conditions: [...conditions, ...NODE_CONDITIONS] }),
    });
    let stale = false;
    for (const file of files) {
      for (const warning of file.warnings) io.err(`vfio-alias: warning: ${warning}\n`);
      if (check && file.changed) {
        stale = true;
        io.err(`vfio-alias: ${file.path} is missing or out of date; run vfio-alias\n`);
      } else if (!quiet) {
        const count = file.content.split('\n').filter((line) => line.startsWith('alias ')).length;
        const state = check || !file.changed ? 'up to date' : 'written';
        io.out(`${file.path}: ${count} ${count === 1 ? 'alias' : 'aliases'} of ${file.drivers.join(', ')}, ${state}\n`);
      }
    }
    return stale ? 1 : 0;
  } catch (error) {
    io.err(`vfio-alias: ${messageOf(error)}\n`);
    return 1;
  }
}

function parse(args: readonly string[]) {
  return parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      check: { type: 'boolean' },
      conditions: { type: 'string', short: 'C', multiple: true },
      quiet: { type: 'boolean', short: 'q' },
      help: { type: 'boolean', short: 'h' },
    },
  });
}

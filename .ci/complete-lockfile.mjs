// Fills package-lock.json with the optional packages of other platforms.
//
// npm leaves an optional package out of the lock file when the registry it asks does not serve it, as mirrors for one
// platform do, and `npm ci` then refuses the whole file as out of step. The entries written here are what npm would
// have written, except for the checksum, which only the package itself could give; npm passes over them on every
// platform but their own. Run it after `npm install` has changed the lock file: node .ci/complete-lockfile.mjs
import { readFileSync, writeFileSync } from 'node:fs';

const FILE = new URL('../package-lock.json', import.meta.url);
const PLATFORM =
  /(?<os>aix|android|darwin|freebsd|linux|netbsd|openbsd|openharmony|sunos|win32)-(?<cpu>arm64|arm|ia32|loong64|mips64el|ppc64|riscv64|s390x|x64)(-(?<abi>[a-z]+))?$/;

const lock = JSON.parse(readFileSync(FILE, 'utf8'));
const packages = lock.packages;

/** Whether a package at `from` finds `name` in its own node_modules or in one further up. */
function isResolved(from, name) {
  for (let folder = from; ; folder = folder.slice(0, Math.max(folder.lastIndexOf('/node_modules/'), 0))) {
    if (`${folder}${folder && '/'}node_modules/${name}` in packages) return true;
    if (folder === '') return false;
  }
}

const added = [];
for (const [from, entry] of Object.entries(packages)) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    const platform = PLATFORM.exec(name)?.groups;
    if (isResolved(from, name) || platform === undefined || !/^\d/.test(version)) continue;
    const libc = platform.abi?.startsWith('musl') ? ['musl'] : platform.abi?.startsWith('gnu') ? ['glibc'] : undefined;
    packages[`node_modules/${name}`] = {
      version,
      cpu: [platform.cpu],
      ...(entry.dev && { dev: true }),
      ...(platform.os === 'linux' && libc && { libc }),
      optional: true,
      os: [platform.os],
    };
    added.push(`${name}@${version}`);
  }
}
lock.packages = Object.fromEntries(Object.entries(packages).sort(([a], [b]) => a.localeCompare(b, 'en')));
writeFileSync(FILE, `${JSON.stringify(lock, null, 2)}\n`);
process.stdout.write(`${added.length === 0 ? 'package-lock.json is complete' : `added ${added.join(', ')}`}\n`);

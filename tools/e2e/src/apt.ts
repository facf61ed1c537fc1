import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { command, tryCommand } from './command.js';

/** The Debian release whose packages the guests are made of, and where its newer kernel and QEMU come from. */
export const RELEASE = 'trixie';
const BACKPORTS = `${RELEASE}-backports`;
const KEYRINGS = [
  '/usr/share/keyrings/debian-archive-keyring.gpg',
  '/usr/share/keyrings/debian-archive-keyring.pgp',
] as const;

/**
 * apt with its own sources, lists and an empty package database, so that it resolves and downloads packages of
 * {@link RELEASE} with all they depend on, whatever release the machine itself runs. Nothing is installed on the
 * machine, no root rights are needed, and signatures are checked as always.
 */
export class PrivateApt {
  readonly #folder: string;
  readonly #options: string[];

  constructor(folder: string, mirror: string) {
    this.#folder = folder;
    for (const sub of ['empty', 'state/lists/partial', 'cache/archives/partial']) {
      mkdirSync(join(folder, sub), { recursive: true });
    }
    const keyring = KEYRINGS.find((file) => existsSync(file));
    if (keyring === undefined) throw new Error(`apt: none of ${KEYRINGS.join(', ')}: install debian-archive-keyring`);
    const source = (suite: string) => `deb [arch=amd64 signed-by=${keyring}] ${mirror} ${suite} main\n`;
    writeFileSync(join(folder, 'sources.list'), source(RELEASE) + source(BACKPORTS));
    writeFileSync(
      join(folder, 'preferences'),
      `Package: qemu-* seabios ipxe-qemu linux-*\nPin: release n=${BACKPORTS}\nPin-Priority: 900\n`,
    );
    writeFileSync(join(folder, 'status'), '');
    const settings: Record<string, string> = {
      'Dir::Etc::sourcelist': join(folder, 'sources.list'),
      'Dir::Etc::sourceparts': join(folder, 'empty'),
      'Dir::Etc::preferences': join(folder, 'preferences'),
      'Dir::Etc::preferencesparts': join(folder, 'empty'),
      'Dir::State': join(folder, 'state'),
      'Dir::State::status': join(folder, 'status'),
      'Dir::Cache': join(folder, 'cache'),
      'Dir::Log': folder,
      'APT::Architecture': 'amd64',
      'APT::Install-Recommends': 'false',
      // The download user cannot enter a home folder's cache.
      'APT::Sandbox::User': 'root',
      'Acquire::Languages': 'none',
      'Acquire::Retries': '3',
    };
    this.#options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  }

  async update(): Promise<void> {
    await command(['apt-get', ...this.#options, '-qq', 'update']);
  }

  /** Downloads packages with everything they depend on; returns the paths of the .deb files. */
  async downloadClosure(packages: readonly string[]): Promise<string[]> {
    await command(['apt-get', ...this.#options, '-qq', '-y', '--download-only', 'install', ...packages]);
    return debsIn(join(this.#folder, 'cache/archives'));
  }

  /** Downloads exactly these packages (`name=version`) into `folder`, without what they depend on. */
  async download(packages: readonly string[], folder: string): Promise<string[]> {
    mkdirSync(folder, { recursive: true });
    await command(['apt-get', ...this.#options, '-qq', 'download', ...packages], { cwd: folder });
    return debsIn(folder);
  }

  /** The version that would be installed, and the package's `Depends` field, of one package. */
  async show(name: string): Promise<{ version: string; depends: string }> {
    const text = await command(['apt-cache', ...this.#options, 'show', '--no-all-versions', name]);
    const field = (key: string) => new RegExp(`^${key}: (.*)$`, 'm').exec(text)?.[1] ?? '';
    return { version: field('Version'), depends: field('Depends') };
  }
}

function debsIn(folder: string): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith('.deb'))
    .sort()
    .map((name) => join(folder, name));
}

/**
 * Where Debian's archive is, as the machine's own apt is told; `VFIO_E2E_MIRROR` overrides it, for a machine that
 * runs something else.
 */
export async function debianMirror(env: NodeJS.ProcessEnv = process.env): Promise<string> {
  const { VFIO_E2E_MIRROR } = env;
  if (VFIO_E2E_MIRROR) return VFIO_E2E_MIRROR;
  const ask = async () => {
    const filters = ['Created-By: Packages', 'Origin: Debian', 'Label: Debian'];
    const { stdout } = await tryCommand(['apt-get', 'indextargets', '--format', '$(REPO_URI)', ...filters]);
    return stdout.split('\n').find((line) => line.trim() !== '');
  };
  const known = await ask();
  if (known !== undefined) return known;
  // Lists that were never fetched have no origin yet.
  if (process.getuid?.() === 0) await tryCommand(['apt-get', '-qq', 'update']);
  const found = await ask();
  if (found === undefined) {
    throw new Error("apt knows no Debian archive: run apt-get update, or set VFIO_E2E_MIRROR to the archive's address");
  }
  return found;
}

/** Makes an empty root whose /bin, /lib and so on are links into /usr, as Debian's packages expect. */
export function makeMergedRoot(root: string): void {
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) {
    mkdirSync(join(root, 'usr', name), { recursive: true });
    symlinkSync(`usr/${name}`, join(root, name));
  }
}

/** Unpacks packages into `root` without running any of their scripts, and deletes the .deb files. */
export async function unpack(debs: readonly string[], root: string): Promise<void> {
  for (const deb of debs) {
    await command(['dpkg-deb', '--extract', deb, root]);
    rmSync(deb);
  }
}

import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseModulesAlias } from '@vfio/core';
import { cacheRoot, ensureStage, recipeKey, type Stage, withLock } from '../../e2e/src/cache.js';
import { command, tryCommand } from '../../e2e/src/command.js';
import { systemQemu } from '../../e2e/src/qemu-program.js';
import { Sysroot } from '../../e2e/src/sysroot.js';
import { KERNEL_TREE, SYSROOT, type ToolsManifest, toolsStage } from '../../e2e/src/tools-stage.js';
import { recordedVariants } from './modules-alias.js';

/**
 * Modules that Debian's kernel does not have, with the aliases that they would bring: the variant drivers as recorded, rows by
 * class and by subsystem, and patterns that file2alias never writes but kmod understands.
 */
function syntheticModules(): Map<string, string[]> {
  const modules = new Map<string, string[]>();
  for (const { pattern, driver } of parseModulesAlias(recordedVariants()).aliases) {
    // Debian has that one itself.
    if (driver === 'vfio_pci') continue;
    modules.set(driver, [...(modules.get(driver) ?? []), pattern]);
  }
  modules.set('syn_class', [
    'vfio_pci:v*d*sv*sd*bc01sc08i02*',
    'vfio_pci:v*d*sv*sd*bc03sc*i*',
    'vfio_pci:v00008086d*sv*sd*bc02sc00i*',
    'vfio_pci:v*d*sv*sd*bc*sc*i02*',
    'pci:v*d*sv*sd*bc0Csc03i30*',
    'pci:v*d*sv*sd*bc*sc80i*',
  ]);
  modules.set('syn_subsystem', [
    'vfio_pci:v*d*sv00001AF4sd*bc*sc*i*',
    'vfio_pci:v*d*sv00001028sd000001DCbc*sc*i*',
    'vfio_pci:v00008086d*sv*sd00000001bc*sc*i*',
    'vfio_pci:v000015B3d0000101Esv000015B3sd00000001bc02sc00i00*',
    'pci:v*d*sv0000103Csd*bc*sc*i*',
    'pci:v00008086d00001533sv00008086sd*bc02sc*i*',
  ]);
  modules.set('syn_odd', [
    'pci:v0000808[67]d00001*sv*sd*bc*sc*i*',
    'pci:v*d0000?533sv*sd*bc*sc*i*',
    'vfio_pci:v*d*sv*sd*bc0[1-3]sc*i*',
    'vfio_pci:v000010D[!A-D]d*',
    'pci:v00001AF4*',
  ]);
  // What separates the answers, see Kmod.resolve.
  modules.set('syn_marker', [MARKER]);
  return modules;
}

const MARKER = 'synmarker:x';
const MARKER_MODULE = 'syn_marker';

interface AliasManifest {
  release: string;
}

const TREE = 'tree';

/** The files that depmod makes of Debian's kernel package and the synthetic modules; depmod takes half a minute. */
function aliasStage(tools: string, release: string): Stage<AliasManifest> {
  const source = readFileSync(import.meta.filename);
  return {
    name: 'aliases',
    key: recipeKey([basename(tools), source, recordedVariants()]),
    make: async (folder) => {
      const from = join(tools, KERNEL_TREE, 'usr/lib/modules', release);
      const to = join(folder, TREE, 'lib/modules', release);
      const extra = join(to, 'extra');
      mkdirSync(extra, { recursive: true });
      for (const name of readdirSync(from)) {
        if (/^modules\.(builtin|order)/.test(name)) copyFileSync(join(from, name), join(to, name));
      }
      symlinkSync(join(from, 'kernel'), join(to, 'kernel'));
      for (const [name, aliases] of syntheticModules()) await compileModule(join(extra, `${name}.ko`), name, aliases);
      const sysroot = new Sysroot(join(tools, SYSROOT));
      await sysroot.run('usr/bin/kmod', ['-b', join(folder, TREE), release], { argv0: 'depmod' });
      rmSync(join(to, 'kernel'));
      return { release };
    },
  };
}

/** To depmod a module is an object file with a section of NUL-terminated `key=value`. */
async function compileModule(file: string, name: string, aliases: readonly string[]): Promise<void> {
  const source = `${file}.c`;
  const info = ['license=GPL', `name=${name}`, ...aliases.map((alias) => `alias=${alias}`)];
  const strings = info.map((text) => JSON.stringify(`${text}\0`)).join('\n  ');
  writeFileSync(
    source,
    `static const char info[] __attribute__((section(".modinfo"), used)) =\n  ${strings.replaceAll('\\u0000', '\\0')};\n`,
  );
  await command(['gcc', '-c', '-o', file, source]);
  rmSync(source);
}

/** How many arguments one modprobe gets: well below what the kernel passes on. */
const CHUNK = 5000;

/** depmod's files of a real kernel, and modprobe to ask. */
export class KernelAliases {
  readonly release: string;
  readonly #sysroot: Sysroot;
  readonly #tree: string;

  constructor(sysroot: Sysroot, tree: string, release: string) {
    this.#sysroot = sysroot;
    this.#tree = tree;
    this.release = release;
  }

  /** Content of a file beside the modules: `modules.alias`, `modules.builtin.modinfo`. */
  read(name: string): Buffer {
    return readFileSync(join(this.#tree, 'lib/modules', this.release, name));
  }

  /**
   * Which modules modprobe would load for each alias. It takes many aliases but does not say which answer belongs to which,
   * so an alias of a module of ours stands after each.
   */
  async resolve(aliases: readonly string[]): Promise<Set<string>[]> {
    const results: Set<string>[] = [];
    for (let at = 0; at < aliases.length; at += CHUNK) {
      const chunk = aliases.slice(at, at + CHUNK);
      const argv = this.#sysroot.argv('usr/bin/kmod', 'modprobe');
      const options = [
        '-d',
        this.#tree,
        '-S',
        this.release,
        '-C',
        '/nonexistent',
        '--quiet',
        '--resolve-alias',
        '--all',
      ];
      // It exits with 1 where one alias leads nowhere, which is an answer too.
      const { stdout } = await tryCommand([...argv, ...options, ...chunk.flatMap((alias) => [alias, MARKER])]);
      const answers = stdout.split(`${MARKER_MODULE}\n`);
      if (answers.length !== chunk.length + 1) {
        throw new Error(`modprobe: ${answers.length - 1} answers to ${chunk.length} aliases`);
      }
      for (const answer of answers.slice(0, -1)) results.push(new Set(answer.split('\n').filter(Boolean)));
    }
    return results;
  }
}

/** Makes what the cache lacks, as the guest tests do and with the same packages. */
export async function prepareKernelAliases(log: (line: string) => void): Promise<KernelAliases> {
  const cache = cacheRoot();
  mkdirSync(cache, { recursive: true });
  const needQemu = (await systemQemu()) === undefined;
  return await withLock(join(cache, 'lock'), async () => {
    const tools = await ensureStage<ToolsManifest>(cache, toolsStage(needQemu, log));
    const { folder, manifest } = await ensureStage(cache, aliasStage(tools.folder, tools.manifest.kernel));
    return new KernelAliases(new Sysroot(join(tools.folder, SYSROOT)), join(folder, TREE), manifest.release);
  });
}

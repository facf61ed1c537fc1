import {
  type AliasEntry,
  type AliasExplanation,
  AliasIndex,
  type PciIdentity,
  parseBuiltinModinfo,
  parseModulesAlias,
} from '@vfio/core';
import { errnoError, VfioError } from '@vfio/uapi';
import type { LinuxSystem } from './system.js';

/** The driver that takes every function, and the module that it is in. */
export const GENERIC_DRIVER = 'vfio-pci';
export const GENERIC_MODULE = 'vfio_pci';

/** Modules and drivers are looked for by these words, which also end up in paths that are written to. */
export const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$/;

/** A kernel driver that is there: its name is what driver_override takes. */
export interface KernelDriver {
  readonly name: string;
  /** Spelled as in /sys/module; undefined for a driver that is built in and belongs to no module. */
  readonly module: string | undefined;
}

/** Where a driver is found: in a module that may have to be loaded, or among those that are registered. */
export type DriverChoice = { readonly module: string } | { readonly driver: string };

/**
 * The kernel's own VFIO drivers: which there are, which of them is a function's best, and what a module's driver is called.
 */
export class KernelModules {
  readonly #system: LinuxSystem;
  #directory: { readonly path: string | undefined } | undefined;
  #index: AliasIndex | undefined;
  #sources: string[] = [];

  constructor(system: LinuxSystem) {
    this.#system = system;
  }

  /** The folder of the running kernel's modules; undefined where there is none. */
  get directory(): string | undefined {
    this.#directory ??= { path: moduleDirectories(this.#system).find((path) => this.#system.exists(path)) };
    return this.#directory.path;
  }

  /** The `vfio_pci:` aliases of the running kernel; the name of an entry's driver is its *module*. */
  get index(): AliasIndex {
    if (this.#index === undefined) {
      const { directory } = this;
      const read = (name: string): Buffer | undefined => {
        if (directory === undefined) return undefined;
        const path = `${directory}/${name}`;
        const content = this.#system.bytes(path);
        if (content !== undefined) this.#sources.push(path);
        return content;
      };
      const modules = read('modules.alias');
      const builtin = read('modules.builtin.modinfo');
      const lines = [
        ...(modules === undefined ? [] : parseModulesAlias(modules).aliases),
        ...(builtin === undefined ? [] : parseBuiltinModinfo(builtin).aliases),
      ];
      // Thirty thousand others tell which module an ordinary driver is in.
      this.#index = new AliasIndex(lines.filter(({ pattern }) => !pattern.startsWith('pci:')));
    }
    return this.#index;
  }

  /** The files that {@link index} was read from. */
  get sources(): readonly string[] {
    void this.index;
    return this.#sources;
  }

  /** The module with the best driver for a function; undefined where the files name none. */
  best(id: PciIdentity): AliasEntry | undefined {
    return this.index.best(id);
  }

  /** Why {@link best} gives what it gives. */
  explain(id: PciIdentity, options: { readonly mismatches?: boolean } = {}): AliasExplanation {
    return this.index.explain(id, options);
  }

  /** Whether a module is in the kernel now, loaded or built in. */
  isLoaded(module: string): boolean {
    return this.#system.exists(this.#system.sys('module', module));
  }

  isRegistered(driver: string): boolean {
    return this.#system.exists(this.#system.sys('bus/pci/drivers', driver));
  }

  /** Names of the PCI drivers of a module that is in the kernel. */
  driversOf(module: string): string[] {
    return this.#system
      .list(this.#system.sys('module', module, 'drivers'))
      .filter((name) => name.startsWith('pci:'))
      .map((name) => name.slice('pci:'.length));
  }

  /**
   * Sees to it that a module is in the kernel.
   * @throws ENOENT where it is not and there is no modprobe, or the module does not exist; EIO where it cannot be loaded
   */
  load(module: string): void {
    if (this.isLoaded(module)) return;
    const result = this.#system.run('modprobe', ['--', module]);
    if (result === undefined) {
      throw new VfioError(
        'ERR_VFIO_NO_DRIVER',
        `module ${module} is not loaded, and there is no modprobe here; load it on the host (\`modprobe ${module}\`), ` +
          'or with insmod together with what it depends on, and try again',
        { errno: 'ENOENT', op: 'modprobe', details: { module } },
      );
    }
    if (result.code !== 0 || !this.isLoaded(module)) {
      const said = result.stderr.trim().split('\n').at(-1) ?? '';
      throw new VfioError(
        'ERR_VFIO_NO_DRIVER',
        `module ${module} could not be loaded: ${said === '' ? `modprobe ended with ${result.code}` : said}`,
        { errno: /not found/.test(said) ? 'ENOENT' : 'EIO', op: 'modprobe', details: { module } },
      );
    }
  }

  /**
   * The driver of a module, loaded where it is not. Its name is read from /sys/module: the spelling of the module tells
   * nothing (`vfio-pci` is in `vfio_pci`, `mlx5_vfio_pci` in `mlx5_vfio_pci`).
   * @throws as {@link load}; ENODEV for a module without a PCI driver, EINVAL for one with several.
   */
  driverOf(module: string): KernelDriver {
    this.load(module);
    const names = this.driversOf(module);
    const [name] = names;
    if (name === undefined) {
      throw new VfioError('ERR_VFIO_NO_DRIVER', `module ${module} has no PCI driver`, {
        errno: 'ENODEV',
        op: 'driver',
        details: { module },
      });
    }
    if (names.length > 1) {
      throw new VfioError(
        'ERR_VFIO_NO_DRIVER',
        `module ${module} has the PCI drivers ${names.join(', ')}; name one of them`,
        { errno: 'EINVAL', op: 'driver', details: { module, drivers: names } },
      );
    }
    return { name, module };
  }

  /**
   * Where the best driver for a function is: a module, or a driver that is registered and belongs to none. Loads nothing.
   * Where the aliases name none, as those of kernels before 7 do for what is built in, the generic driver stands in.
   * @throws ENODEV where this kernel has no VFIO driver that could be found.
   */
  bestModule(id: PciIdentity): DriverChoice {
    const best = this.best(id);
    if (best !== undefined) return { module: best.driver };
    if (this.isLoaded(GENERIC_MODULE)) return { module: GENERIC_MODULE };
    if (this.isRegistered(GENERIC_DRIVER)) return { driver: GENERIC_DRIVER };
    const { directory } = this;
    const why =
      this.sources.length > 0
        ? `${this.sources.join(' and ')} name no VFIO driver`
        : directory === undefined
          ? `there are no modules of kernel ${this.#system.release} here (looked in ${moduleDirectories(this.#system).join(', ')})`
          : `${directory} has no modules.alias; \`depmod\` makes it`;
    throw new VfioError(
      'ERR_VFIO_NO_DRIVER',
      `no kernel driver for VFIO was found: ${why}; ${GENERIC_DRIVER} is not loaded`,
      {
        errno: 'ENODEV',
        op: 'driver',
      },
    );
  }

  /**
   * What a person means by a name: a driver that is registered, or a module, whose name may be written with `-` or `_`.
   * Loads nothing.
   * @throws EINVAL for what cannot be a name.
   */
  named(name: string): DriverChoice {
    if (!NAME.test(name)) {
      throw errnoError('EINVAL', `${JSON.stringify(name)} cannot be the name of a driver`, { op: 'driver' });
    }
    return this.isRegistered(name) ? { driver: name } : { module: name.replaceAll('-', '_') };
  }

  /** The driver that was chosen, its module loaded. @throws as {@link driverOf}. */
  obtain(choice: DriverChoice): KernelDriver {
    if ('module' in choice) return this.driverOf(choice.module);
    const module = this.#system.linkName(this.#system.sys('bus/pci/drivers', choice.driver, 'module'));
    return { name: choice.driver, module };
  }
}

/** Whether a parameter of a module, one that is on or off, is on. */
export const isSwitchedOn = (system: LinuxSystem, module: string, parameter: string): boolean =>
  system.attribute(system.sys('module', module, 'parameters', parameter)) === 'Y';

/** Where the modules of the running kernel may lie; `LINUX_MODULE_DIRECTORY` is what Guix and Nix set. */
function moduleDirectories(system: LinuxSystem): string[] {
  const { release } = system;
  const named = system.env['LINUX_MODULE_DIRECTORY'];
  return [
    ...(named === undefined || named === '' ? [] : [`${named}/${release}`]),
    system.file(`/run/booted-system/kernel-modules/lib/modules/${release}`),
    system.file(`/lib/modules/${release}`),
    system.file(`/usr/lib/modules/${release}`),
  ];
}

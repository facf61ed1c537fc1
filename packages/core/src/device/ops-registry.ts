import { VfioError } from '@vfio/uapi';
import type { PciFunction } from '../pci/function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { corePciOps } from './core-ops.js';
import type { DeviceExtension } from './extension.js';
import type { VfioLogOps, VfioMigrationOps } from './migration-types.js';
import { VFIO_OPS_API, type VfioDeviceOps, type VfioOpsFactory } from './ops.js';
import { missingLogOps, missingMigrationOps } from './optional-ops.js';

/** What a driver registers: its table, and the optional tables that its `init` may attach, so that they are checked early. */
export interface OpsEntry {
  readonly ops: VfioOpsFactory;
  readonly migrationOps?: VfioMigrationOps<VfioPciCoreDevice>;
  readonly logOps?: VfioLogOps<VfioPciCoreDevice>;
}

/** Every op of a table. */
const OP_NAMES: ReadonlySet<string> = new Set(Object.keys(corePciOps).filter((key) => key !== 'name' && key !== 'api'));

function badTable(name: string, problem: string, errno: 'EINVAL' | 'EEXIST' = 'EINVAL'): VfioError {
  return new VfioError('ERR_VFIO_BAD_DRIVER', `ops table "${name}": ${problem}`, {
    errno,
    op: 'register',
    details: { opsName: name },
  });
}

/** Checks that a table is whole and of this core's version. @throws EINVAL (`ERR_VFIO_BAD_DRIVER`). */
export function checkOpsTable(ops: VfioDeviceOps): void {
  const name = typeof ops.name === 'string' && ops.name !== '' ? ops.name : undefined;
  if (name === undefined) throw badTable(String(ops.name), 'a table must have a name');
  if (ops.api !== VFIO_OPS_API) {
    throw badTable(
      name,
      `made for ops api ${String(ops.api)}, this core has api ${VFIO_OPS_API}; update the driver or the core`,
    );
  }
  const table = ops as unknown as Readonly<Record<string, unknown>>;
  for (const [key, value] of Object.entries(table)) {
    if (key === 'name' || key === 'api') continue;
    if (!OP_NAMES.has(key)) throw badTable(name, `unknown op "${key}"; known are ${[...OP_NAMES].join(', ')}`);
    if (typeof value !== 'function') throw badTable(name, `op "${key}" is not a function`);
  }
  for (const op of OP_NAMES)
    if (table[op] === undefined) throw badTable(name, `op "${op}" is missing; spread the base's table first`);
}

/**
 * The ops tables and extensions of one bus, by ops name. Nothing is global, and importing a driver registers nothing. A
 * driver may register several tables and choose at probe.
 */
export class OpsRegistry {
  readonly #entries = new Map<string, OpsEntry>();
  readonly #extensions = new Map<string, DeviceExtension>();

  /**
   * Adds a table under its ops name, which is returned.
   *
   * @throws EINVAL (`ERR_VFIO_BAD_DRIVER`): unknown or missing op, half a migration or log table, wrong `api`; EEXIST: the
   *   name is taken.
   */
  register(entry: OpsEntry | VfioOpsFactory): string {
    const whole: OpsEntry = typeof entry === 'function' ? { ops: entry } : entry;
    const table = whole.ops(corePciOps);
    checkOpsTable(table);
    const { name } = table;
    if (name === corePciOps.name) throw badTable(name, 'the name is that of the base; a driver needs its own');
    const half = [...missingMigrationOps(whole.migrationOps), ...missingLogOps(whole.logOps)];
    if (half.length > 0)
      throw badTable(name, `migration and log tables are all or nothing; missing: ${half.join(', ')}`);
    if (this.#entries.has(name)) throw badTable(name, 'the name is taken already', 'EEXIST');
    this.#entries.set(name, whole);
    return name;
  }

  /** Takes a table away; devices that use it keep it. Unknown names are ignored. */
  unregister(name: string): void {
    this.#entries.delete(name);
  }

  /** The table of that ops name. @throws ENOENT (`ERR_VFIO_NO_DRIVER`). */
  get(name: string): OpsEntry {
    const entry = this.#entries.get(name);
    if (entry === undefined) {
      const known = this.#entries.size === 0 ? 'none is registered' : `registered are ${this.names().join(', ')}`;
      throw new VfioError('ERR_VFIO_NO_DRIVER', `no ops table "${name}": ${known}`, { errno: 'ENOENT', op: 'get' });
    }
    return entry;
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  names(): string[] {
    return [...this.#entries.keys()];
  }

  /** Adds an extension for devices allocated from now on; the result takes it away. @throws EEXIST for a name that is taken. */
  addExtension(extension: DeviceExtension): () => void {
    if (this.#extensions.has(extension.name)) {
      throw new VfioError('ERR_VFIO_EXISTS', `extension "${extension.name}" is registered already`, {
        errno: 'EEXIST',
        op: 'addExtension',
      });
    }
    this.#extensions.set(extension.name, extension);
    return () => {
      if (this.#extensions.get(extension.name) === extension) this.#extensions.delete(extension.name);
    };
  }

  /** The extensions whose condition a function meets, in the order of registration. */
  extensionsFor(fn: PciFunction): DeviceExtension[] {
    return [...this.#extensions.values()].filter((extension) => extension.appliesTo(fn));
  }
}

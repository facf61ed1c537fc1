import type { VfioPciCoreDevice } from './core-device.js';
import type { VfioLogOps, VfioMigrationOps } from './migration-types.js';

const MIGRATION_OP_NAMES = ['setState', 'getState', 'getDataSize'] as const;
const LOG_OP_NAMES = ['logStart', 'logStop', 'logReadAndClear'] as const;

function missing(table: object | undefined, names: readonly string[]): string[] {
  if (table === undefined) return [];
  const ops = table as Readonly<Record<string, unknown>>;
  return names.filter((name) => typeof ops[name] !== 'function');
}

/** Ops that a migration table lacks; empty where it is whole or there is none. */
export function missingMigrationOps(ops: VfioMigrationOps<VfioPciCoreDevice> | undefined): string[] {
  return missing(ops, MIGRATION_OP_NAMES);
}

/** Ops that a log table lacks. */
export function missingLogOps(ops: VfioLogOps<VfioPciCoreDevice> | undefined): string[] {
  return missing(ops, LOG_OP_NAMES);
}

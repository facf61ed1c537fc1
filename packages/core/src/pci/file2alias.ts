import { hex, PCI_ANY_ID, PCI_ID_F_VFIO_DRIVER_OVERRIDE } from '@vfio/uapi';
import { formatPciDeviceId, isPciTableEnd, type PciDeviceId } from './ids.js';
import { type AliasNamespace, formatAliasPattern } from './modalias.js';

/** A row of an id table that gave no alias, or a suspicious one. */
export interface AliasWarning {
  /** Index of the row. */
  readonly row: number;
  readonly message: string;
}

/** What an id table turns into. */
export interface TableAliases {
  /** Patterns in the order of the table, each once. */
  readonly aliases: readonly string[];
  readonly warnings: readonly AliasWarning[];
}

/** The word that `override_only` puts before the colon; undefined for a bit that nobody has given a meaning. */
function namespaceOf(overrideOnly: number): AliasNamespace | undefined {
  if (overrideOnly === 0) return 'pci';
  if (overrideOnly === PCI_ID_F_VFIO_DRIVER_OVERRIDE) return 'vfio_pci';
  return undefined;
}

/**
 * Turns an id table into alias patterns by the rules of the kernel's `file2alias`: the prefix by `override_only`, ids of
 * 8 and class bytes of 2 upper-case digits, `*` for any, a star at the end. A row gives no alias, and a warning, where
 * - `override_only` has an unknown bit (newer kernels write an undefined prefix there: not copied),
 * - a byte of the class mask is neither 00 nor ff: the format cannot say it.
 *
 * A C terminator ends the table; rows after one are a warning.
 */
export function tableToAliases(idTable: readonly PciDeviceId[]): TableAliases {
  const aliases = new Set<string>();
  const warnings: AliasWarning[] = [];
  for (const [row, id] of idTable.entries()) {
    if (isPciTableEnd(id)) {
      const after = idTable.length - row - 1;
      if (after > 0) warnings.push({ row, message: `a terminator, so the ${after} rows after it give no alias` });
      break;
    }
    const result = rowToAlias(id);
    if (typeof result === 'string') aliases.add(result);
    else warnings.push({ row, message: result.message });
  }
  return { aliases: [...aliases], warnings };
}

function rowToAlias(id: PciDeviceId): string | { message: string } {
  const namespace = namespaceOf(id.overrideOnly);
  if (namespace === undefined) {
    return { message: `${formatPciDeviceId(id)}: unknown PCI driver_override bits ${hex(id.overrideOnly)}; no alias` };
  }
  const classByte = (shift: number): number | undefined | 'partial' => {
    const mask = (id.classMask >>> shift) & 0xff;
    if (mask === 0) return undefined;
    return mask === 0xff ? (id.class >>> shift) & 0xff : 'partial';
  };
  const baseClass = classByte(16);
  const subclass = classByte(8);
  const progInterface = classByte(0);
  if (baseClass === 'partial' || subclass === 'partial' || progInterface === 'partial') {
    return {
      message: `${formatPciDeviceId(id)}: can't handle class mask ${hex(id.classMask)}, not whole bytes; no alias`,
    };
  }
  const any = (value: number): number | undefined => (value === PCI_ANY_ID ? undefined : value);
  return formatAliasPattern({
    namespace,
    vendor: any(id.vendor),
    device: any(id.device),
    subvendor: any(id.subvendor),
    subdevice: any(id.subdevice),
    baseClass,
    subclass,
    interface: progInterface,
  });
}

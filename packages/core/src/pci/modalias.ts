import { VfioError } from '@vfio/uapi';
import type { PciIdentity } from './function.js';

/**
 * The word before the colon. `pci`: ordinary rows, what udev loads by. `vfio_pci`: rows with
 * `PCI_ID_F_VFIO_DRIVER_OVERRIDE`, which nothing loads by itself.
 */
export type AliasNamespace = 'pci' | 'vfio_pci';

/** A function as its modalias names it. Ids have 32 bits here, as in the alias format. */
export interface PciModalias extends PciIdentity {
  readonly namespace: AliasNamespace;
}

/** The seven fields of an alias, in the order in which they are written. */
export const ALIAS_FIELDS = [
  { name: 'vendor', tag: 'v', digits: 8 },
  { name: 'device', tag: 'd', digits: 8 },
  { name: 'subvendor', tag: 'sv', digits: 8 },
  { name: 'subdevice', tag: 'sd', digits: 8 },
  { name: 'baseClass', tag: 'bc', digits: 2 },
  { name: 'subclass', tag: 'sc', digits: 2 },
  { name: 'interface', tag: 'i', digits: 2 },
] as const;

/** Name of an alias field. */
export type AliasFieldName = (typeof ALIAS_FIELDS)[number]['name'];

/** An alias pattern in the form that file2alias writes: each field a number or (undefined) `*`. */
export interface PciAliasPattern extends Readonly<Record<AliasFieldName, number | undefined>> {
  readonly namespace: AliasNamespace;
}

/** Number as the alias format shows it: upper-case hex, zero-padded. */
function upperHex(value: number, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, '0');
}

/** Value of `digits` upper-case hex digits at `at`, or -1. */
function hexAt(text: string, at: number, digits: number): number {
  let value = 0;
  for (let i = at; i < at + digits; i++) {
    const code = text.charCodeAt(i);
    let digit: number;
    if (code >= 0x30 && code <= 0x39) digit = code - 0x30;
    else if (code >= 0x41 && code <= 0x46) digit = code - 0x37;
    else return -1;
    // Not a shift: the fifth and following digits may need the sign bit.
    value = value * 16 + digit;
  }
  return value;
}

function invalid(message: string, op: string): VfioError {
  return new VfioError('ERR_VFIO_INVALID_ALIAS', message, { errno: 'EINVAL', op });
}

/** Length of the fields of a device's modalias, after the colon. */
const FIELDS_LENGTH = 49;

/**
 * Reads a function's modalias, `pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02X`, or the same after `vfio_pci:`. Exactly that:
 * upper-case digits, all of them, and nothing after the last.
 *
 * @throws EINVAL (`ERR_VFIO_INVALID_ALIAS`).
 */
export function parseModalias(text: string): PciModalias {
  const namespace: AliasNamespace | undefined = text.startsWith('pci:')
    ? 'pci'
    : text.startsWith('vfio_pci:')
      ? 'vfio_pci'
      : undefined;
  const at = namespace === 'pci' ? 4 : 9;
  if (namespace !== undefined && text.length === at + FIELDS_LENGTH) {
    const vendor = hexAt(text, at + 1, 8);
    const device = hexAt(text, at + 10, 8);
    const subvendor = hexAt(text, at + 20, 8);
    const subdevice = hexAt(text, at + 30, 8);
    const baseClass = hexAt(text, at + 40, 2);
    const subclass = hexAt(text, at + 44, 2);
    const progInterface = hexAt(text, at + 47, 2);
    if (
      text[at] === 'v' &&
      text[at + 9] === 'd' &&
      text.startsWith('sv', at + 18) &&
      text.startsWith('sd', at + 28) &&
      text.startsWith('bc', at + 38) &&
      text.startsWith('sc', at + 42) &&
      text[at + 46] === 'i' &&
      Math.min(vendor, device, subvendor, subdevice, baseClass, subclass, progInterface) >= 0
    ) {
      const deviceClass = (baseClass << 16) | (subclass << 8) | progInterface;
      return { namespace, vendor, device, subvendor, subdevice, class: deviceClass };
    }
  }
  throw invalid(
    `${JSON.stringify(text.slice(0, 100))} is not the modalias of a PCI function, such as ` +
      'pci:v000015B3d0000101Esv000015B3sd00000001bc02sc00i00',
    'modalias',
  );
}

/** The modalias of a function: what sysfs shows, or (`vfio_pci`) what VFIO drivers are looked up by. */
export function formatModalias(id: PciIdentity, namespace: AliasNamespace = 'pci'): string {
  return (
    `${namespace}:v${upperHex(id.vendor, 8)}d${upperHex(id.device, 8)}` +
    `sv${upperHex(id.subvendor, 8)}sd${upperHex(id.subdevice, 8)}` +
    `bc${upperHex((id.class >>> 16) & 0xff, 2)}sc${upperHex((id.class >>> 8) & 0xff, 2)}i${upperHex(id.class & 0xff, 2)}`
  );
}

const FIELD = (digits: number): string => `([0-9A-F]{${digits}}|\\*)`;
const PATTERN = new RegExp(
  `^(pci|vfio_pci):${ALIAS_FIELDS.map(({ tag, digits }) => tag + FIELD(digits)).join('')}\\*?$`,
);

/**
 * Reads an alias pattern in the form that file2alias writes, with the star that ends it or without. Undefined for every
 * other pattern, which may still be a valid one for fnmatch.
 *
 * In this form a match is a comparison field by field: tags are lower case and digits upper case, so no star can reach
 * into the next field of a function's modalias.
 */
export function parseAliasPattern(text: string): PciAliasPattern | undefined {
  const match = PATTERN.exec(text);
  if (match === null) return undefined;
  const field = (at: number): number | undefined =>
    match[at] === '*' ? undefined : Number.parseInt(match[at] as string, 16);
  return {
    namespace: match[1] as AliasNamespace,
    vendor: field(2),
    device: field(3),
    subvendor: field(4),
    subdevice: field(5),
    baseClass: field(6),
    subclass: field(7),
    interface: field(8),
  };
}

/** Writes an alias pattern as file2alias does: `*` for any, and one more `*` at the end unless there is one. */
export function formatAliasPattern(pattern: PciAliasPattern): string {
  let text = `${pattern.namespace}:`;
  for (const { name, tag, digits } of ALIAS_FIELDS) {
    const value = pattern[name];
    text += tag + (value === undefined ? '*' : upperHex(value, digits));
  }
  return text.endsWith('*') ? text : `${text}*`;
}

/** The value of one alias field in a function's identity. */
export function aliasFieldOf(id: PciIdentity, field: AliasFieldName): number {
  switch (field) {
    case 'baseClass':
      return (id.class >>> 16) & 0xff;
    case 'subclass':
      return (id.class >>> 8) & 0xff;
    case 'interface':
      return id.class & 0xff;
    default:
      return id[field];
  }
}

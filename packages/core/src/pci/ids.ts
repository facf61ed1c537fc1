import { errnoError, hex, PCI_ANY_ID, PCI_ID_F_VFIO_DRIVER_OVERRIDE, VfioError } from '@vfio/uapi';

/**
 * One row of a driver's id table: the kernel's `struct pci_device_id`. All fields but `driverData` are unsigned 32-bit
 * numbers, as in the kernel, although hardware ids have 16 bits and a class 24.
 */
export interface PciDeviceId {
  /** Equal to the function's, or `PCI_ANY_ID`. */
  readonly vendor: number;
  readonly device: number;
  readonly subvendor: number;
  readonly subdevice: number;
  /** Base class, subclass, programming interface; compared under {@link PciDeviceId.classMask} only. */
  readonly class: number;
  /** Bits of the class that must be equal; 0 leaves the class out. */
  readonly classMask: number;
  /**
   * Bit field. 0: an ordinary row, which binds by itself. `PCI_ID_F_VFIO_DRIVER_OVERRIDE`: the row counts only for a
   * function whose driver_override names the driver. No other bit has a meaning.
   */
  readonly overrideOnly: number;
  /** The driver's own number for this row; never looked at when matching. */
  readonly driverData: number;
}

const U32_FIELDS = ['vendor', 'device', 'subvendor', 'subdevice', 'class', 'classMask', 'overrideOnly'] as const;

/**
 * A row from the fields that are given: ids that are left out are `PCI_ANY_ID`, all else 0.
 *
 * @throws EINVAL (`ERR_VFIO_INVALID_ID`) for a field that is not an unsigned 32-bit number.
 */
export function pciDeviceId(fields: Partial<PciDeviceId> = {}): PciDeviceId {
  const id: PciDeviceId = {
    vendor: fields.vendor ?? PCI_ANY_ID,
    device: fields.device ?? PCI_ANY_ID,
    subvendor: fields.subvendor ?? PCI_ANY_ID,
    subdevice: fields.subdevice ?? PCI_ANY_ID,
    class: fields.class ?? 0,
    classMask: fields.classMask ?? 0,
    overrideOnly: fields.overrideOnly ?? 0,
    driverData: fields.driverData ?? 0,
  };
  const problem = pciDeviceIdProblem(id);
  if (problem !== undefined) throw invalidId(problem, 'pciDeviceId');
  return Object.freeze(id);
}

/** What is wrong with a row, as a sentence; undefined where it is right. */
export function pciDeviceIdProblem(id: PciDeviceId): string | undefined {
  if (typeof id !== 'object' || id === null) return `it is ${String(id)}, not an object`;
  for (const field of U32_FIELDS) {
    const value: unknown = id[field];
    if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > 0xffffffff) {
      return `${field} is ${String(value)}; allowed are 0 to 0xffffffff`;
    }
  }
  if (!Number.isSafeInteger(id.driverData)) {
    return `driverData is ${String(id.driverData)}; allowed are integers below 2^53`;
  }
  return undefined;
}

/** A row for one vendor and device, whatever the subsystem and class: `PCI_DEVICE`. */
export function pciDevice(vendor: number, device: number): PciDeviceId {
  return pciDeviceId({ vendor, device });
}

/** A row for one vendor, device and subsystem: `PCI_DEVICE_SUB`. */
export function pciDeviceSub(vendor: number, device: number, subvendor: number, subdevice: number): PciDeviceId {
  return pciDeviceId({ vendor, device, subvendor, subdevice });
}

/**
 * A row for a class, whatever the ids: `PCI_DEVICE_CLASS`. The mask selects the bits that count; only whole bytes
 * (0xff0000, 0xffff00, 0xffffff) can be written as an alias.
 */
export function pciDeviceClass(deviceClass: number, classMask: number): PciDeviceId {
  return pciDeviceId({ class: deviceClass, classMask });
}

/** A row for one vendor and device with an `override_only` value: `PCI_DEVICE_DRIVER_OVERRIDE`. */
export function pciDeviceDriverOverride(vendor: number, device: number, overrideOnly: number): PciDeviceId {
  return pciDeviceId({ vendor, device, overrideOnly });
}

/** A row that counts only when the VFIO driver is asked for by name: `PCI_DRIVER_OVERRIDE_DEVICE_VFIO`. */
export function pciDriverOverrideDeviceVfio(vendor: number, device: number): PciDeviceId {
  return pciDeviceDriverOverride(vendor, device, PCI_ID_F_VFIO_DRIVER_OVERRIDE);
}

/** As {@link pciDriverOverrideDeviceVfio}, by class. The kernel has no macro for it; its tables can be filled so by hand. */
export function pciDriverOverrideClassVfio(deviceClass: number, classMask: number): PciDeviceId {
  return pciDeviceId({ class: deviceClass, classMask, overrideOnly: PCI_ID_F_VFIO_DRIVER_OVERRIDE });
}

/** Whether a row is the terminator of a C table: the kernel stops at the first row whose vendor, subvendor and class mask are 0. */
export function isPciTableEnd(id: PciDeviceId): boolean {
  return id.vendor === 0 && id.subvendor === 0 && id.classMask === 0;
}

/** A row as `vendor:device[:subvendor:subdevice][ class c/m]`, `*` for any; for messages. */
export function formatPciDeviceId(id: PciDeviceId): string {
  const word = (value: number): string => (value === PCI_ANY_ID ? '*' : value.toString(16).padStart(4, '0'));
  let text = `${word(id.vendor)}:${word(id.device)}`;
  if (id.subvendor !== PCI_ANY_ID || id.subdevice !== PCI_ANY_ID)
    text += `:${word(id.subvendor)}:${word(id.subdevice)}`;
  if (id.classMask !== 0) text += ` class ${hex(id.class)}/${hex(id.classMask)}`;
  return text;
}

/** `ids=` of vfio-pci is a string module parameter of 1024 bytes with its terminator. */
export const IDS_PARAMETER_MAX = 1023;

/** A hex number of up to 32 bits, with or without `0x`, as the kernel's `%x` reads it; undefined where it is none. */
function parseHex32(text: string): number | undefined {
  return /^(?:0[xX])?0*[0-9a-fA-F]{1,8}$/.test(text) ? Number.parseInt(text, 16) : undefined;
}

function invalidId(message: string, op: string): VfioError {
  return new VfioError('ERR_VFIO_INVALID_ID', message, { errno: 'EINVAL', op });
}

/**
 * Reads `vendor:device[:subvendor[:subdevice[:class[:mask]]]]`, hex: one item of vfio-pci's `ids=`. What is left out is
 * any subsystem and any class; a class without a mask is left out too, as in the kernel. Unlike the kernel's scan, text
 * after the last number is refused and not dropped.
 *
 * @throws EINVAL (`ERR_VFIO_INVALID_ID`).
 */
export function parsePciIds(text: string): PciDeviceId {
  const fields = text.trim().split(':');
  const numbers = fields.map(parseHex32);
  if (fields.length < 2 || fields.length > 6 || numbers.includes(undefined)) {
    throw invalidId(
      `"${text}" is not vendor:device[:subvendor[:subdevice[:class[:mask]]]] in hex, such as 15b3:101e`,
      'ids',
    );
  }
  const [vendor, device, subvendor, subdevice, deviceClass, classMask] = numbers;
  return pciDeviceId(definedFields({ vendor, device, subvendor, subdevice, class: deviceClass, classMask }));
}

/** What {@link parseIdsParameter} found: rows for the dynamic list, and a sentence for each item that was skipped. */
export interface IdsParameter {
  readonly ids: readonly PciDeviceId[];
  readonly warnings: readonly string[];
}

/**
 * Reads the whole `ids=` parameter: a comma list of {@link parsePciIds} items. An empty item is passed over, a bad one
 * is skipped with a warning, as vfio-pci does.
 *
 * @throws ENOSPC (`ERR_VFIO_LIMIT`) for more than 1023 characters.
 */
export function parseIdsParameter(text: string): IdsParameter {
  if (text.length > IDS_PARAMETER_MAX) {
    throw errnoError('ENOSPC', `ids has ${text.length} characters; allowed are ${IDS_PARAMETER_MAX}`, { op: 'ids' });
  }
  const ids: PciDeviceId[] = [];
  const warnings: string[] = [];
  for (const item of text.split(',')) {
    if (item.trim() === '') continue;
    try {
      ids.push(parsePciIds(item));
    } catch (error) {
      // Only our own refusal is thrown here.
      warnings.push(`ids: item skipped: ${(error as Error).message}`);
    }
  }
  return { ids, warnings };
}

/** One write to `new_id`. */
export interface NewId {
  readonly id: PciDeviceId;
  /** All seven fields were given: the driver's author asks for a duplicate knowingly, and it is not tested for. */
  readonly complete: boolean;
}

/**
 * Reads what is written to `new_id`: `vendor device [subvendor [subdevice [class [mask [driver_data]]]]]`, hex, separated
 * by white space. Unlike the kernel's scan, trailing garbage and numbers that do not fit are refused and not cut.
 *
 * @throws EINVAL (`ERR_VFIO_INVALID_ID`).
 */
export function parseNewId(text: string): NewId {
  const fields = splitFields(text);
  const numbers = fields.slice(0, 6).map(parseHex32);
  const driverData = fields[6] === undefined ? 0 : parseDriverData(fields[6]);
  if (fields.length < 2 || fields.length > 7 || numbers.includes(undefined) || driverData === undefined) {
    throw invalidId(
      `new_id: "${text.trim()}" is not "vendor device [subvendor [subdevice [class [mask [driver_data]]]]]" in hex`,
      'new_id',
    );
  }
  const [vendor, device, subvendor, subdevice, deviceClass, classMask] = numbers;
  const id = pciDeviceId(
    definedFields({ vendor, device, subvendor, subdevice, class: deviceClass, classMask, driverData }),
  );
  return { id, complete: fields.length === 7 };
}

/**
 * Reads what is written to `remove_id`: as `new_id` without driver_data. Ids that are left out are `PCI_ANY_ID`, a class
 * that is left out has mask 0.
 *
 * @throws EINVAL (`ERR_VFIO_INVALID_ID`).
 */
export function parseRemoveId(text: string): PciDeviceId {
  const fields = splitFields(text);
  const numbers = fields.map(parseHex32);
  if (fields.length < 2 || fields.length > 6 || numbers.includes(undefined)) {
    throw invalidId(
      `remove_id: "${text.trim()}" is not "vendor device [subvendor [subdevice [class [mask]]]]" in hex`,
      'remove_id',
    );
  }
  const [vendor, device, subvendor, subdevice, deviceClass, classMask] = numbers;
  return pciDeviceId(definedFields({ vendor, device, subvendor, subdevice, class: deviceClass, classMask }));
}

function splitFields(text: string): string[] {
  const trimmed = text.trim();
  return trimmed === '' ? [] : trimmed.split(/\s+/);
}

function parseDriverData(text: string): number | undefined {
  if (!/^(?:0[xX])?0*[0-9a-fA-F]{1,16}$/.test(text)) return undefined;
  const value = Number.parseInt(text, 16);
  return Number.isSafeInteger(value) ? value : undefined;
}

/** Drops the keys whose value is undefined, so that the defaults of {@link pciDeviceId} hold. */
function definedFields(fields: { [K in keyof PciDeviceId]?: number | undefined }): Partial<PciDeviceId> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

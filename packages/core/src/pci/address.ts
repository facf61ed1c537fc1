import { pciDevfn, VfioError } from '@vfio/uapi';

/** Where a function sits: segment (the kernel's domain), bus, device and function number. */
export interface PciAddress {
  /** 0 to 0xffffffff; more than 0xffff only behind Intel VMD and the like. */
  readonly domain: number;
  /** 0 to 0xff. */
  readonly bus: number;
  /** 0 to 31. */
  readonly device: number;
  /** 0 to 7. */
  readonly function: number;
}

const ADDRESS = /^(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])$/;

/**
 * Reads `dddd:bb:dd.f` or, in segment 0, `bb:dd.f`; hex of any case, leading zeros may be missing. The whole text must
 * be the address: a part of one never stands for a function.
 *
 * @throws EINVAL (`ERR_VFIO_INVALID_ID`).
 */
export function parsePciAddress(text: string): PciAddress {
  const match = ADDRESS.exec(text);
  const device = match === null ? 32 : Number.parseInt(match[3] as string, 16);
  if (match === null || device > 31) {
    throw new VfioError(
      'ERR_VFIO_INVALID_ID',
      `"${text}" is not a PCI address; expected [dddd:]bb:dd.f in hex (device up to 1f, function up to 7), such as 0000:3b:00.1`,
      { errno: 'EINVAL', op: 'address' },
    );
  }
  return {
    domain: match[1] === undefined ? 0 : Number.parseInt(match[1], 16),
    // The groups are there once the pattern has matched.
    bus: Number.parseInt(match[2] as string, 16),
    device,
    function: Number(match[4]),
  };
}

/** The address in full form, `dddd:bb:dd.f`, lower-case hex; more domain digits only where they are needed. */
export function formatPciAddress(address: PciAddress): string {
  const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
  return `${hex(address.domain, 4)}:${hex(address.bus, 2)}:${hex(address.device, 2)}.${address.function}`;
}

/** `text` in full form. @throws as {@link parsePciAddress}. */
export function normalizePciAddress(text: string): string {
  return formatPciAddress(parsePciAddress(text));
}

/** Order of addresses: domain, bus, device, function. For `Array.prototype.sort`. */
export function comparePciAddress(a: PciAddress, b: PciAddress): number {
  return a.domain - b.domain || a.bus - b.bus || pciDevfn(a.device, a.function) - pciDevfn(b.device, b.function);
}

import { errnoError } from '@vfio/uapi';

/** A PCI address taken apart. */
export interface PciAddress {
  readonly domain: number;
  readonly bus: number;
  readonly device: number;
  readonly func: number;
}

/** Reads `dddd:bb:dd.f` (lower- or upper-case hex; the domain may have up to 8 digits). @throws EINVAL. */
export function parseAddress(text: string): PciAddress {
  const match = /^([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/i.exec(text);
  if (match === null)
    throw errnoError('EINVAL', `PCI address '${text}': the form is dddd:bb:dd.f, for example 0000:03:00.0`);
  const [, domain = '', bus = '', device = '', func = ''] = match;
  return {
    domain: Number.parseInt(domain, 16),
    bus: Number.parseInt(bus, 16),
    device: Number.parseInt(device, 16),
    func: Number(func),
  };
}

/** Writes an address in full form, lower case. */
export function formatAddress(address: PciAddress): string {
  const digits = (value: number, width: number): string => value.toString(16).padStart(width, '0');
  return `${digits(address.domain, 4)}:${digits(address.bus, 2)}:${digits(address.device, 2)}.${address.func}`;
}

/** Bus, device and function as the 16-bit routing id. */
export function routingId(address: PciAddress): number {
  return (address.bus << 8) | (address.device << 3) | address.func;
}

/** The address of a routing id in a domain. */
export function addressOfRoutingId(domain: number, rid: number): PciAddress {
  return { domain, bus: (rid >> 8) & 0xff, device: (rid >> 3) & 0x1f, func: rid & 7 };
}

/** Order of addresses in lists. */
export function compareAddresses(a: PciAddress, b: PciAddress): number {
  return a.domain - b.domain || routingId(a) - routingId(b);
}

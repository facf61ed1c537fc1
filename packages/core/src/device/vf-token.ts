import { errnoError } from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { nameDevice } from './name-device.js';
import type { VfioDevice } from './vfio-device.js';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const TOKEN_BYTES = 16;
const OPTION = 'vf_token=';

/** Reads a UUID of 36 characters into 16 bytes, as the kernel orders them (RFC 9562). @throws EINVAL */
export function parseUuid(text: string): Uint8Array {
  if (!UUID.test(text)) throw errnoError('EINVAL', `"${text}" is not a UUID of 36 characters`, { op: 'parseUuid' });
  const digits = text.replaceAll('-', '');
  return Uint8Array.from({ length: TOKEN_BYTES }, (_, i) => Number.parseInt(digits.slice(i * 2, i * 2 + 2), 16));
}

/** A VF token as a caller gives it. @throws EINVAL */
export function tokenBytes(token: string | Uint8Array | undefined): Uint8Array | undefined {
  if (token === undefined) return undefined;
  if (typeof token === 'string') return parseUuid(token);
  if (token.length === TOKEN_BYTES) return token;
  throw errnoError('EINVAL', `a VF token has ${TOKEN_BYTES} bytes, got ${token.length}`, { op: 'open' });
}

/** A random token (version 4), for a PF at registration. */
export function randomToken(): Uint8Array {
  const token = crypto.getRandomValues(new Uint8Array(TOKEN_BYTES));
  token[6] = (token[6]! & 0x0f) | 0x40;
  token[8] = (token[8]! & 0x3f) | 0x80;
  return token;
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/**
 * Reads a string of GROUP_GET_DEVICE_FD, `<address>[ vf_token=<uuid>]`, for a device; undefined where it names another.
 *
 * @throws EINVAL (unknown or doubled option, bad UUID).
 */
export function parseDeviceName(
  dev: VfioPciCoreDevice,
  name: string,
): { readonly token: Uint8Array | undefined } | undefined {
  const { address } = dev.fn;
  if (!name.startsWith(address)) return undefined;
  const rest = name.slice(address.length);
  if (rest !== '' && rest[0] !== ' ') return undefined;
  let token: Uint8Array | undefined;
  for (const option of rest.split(' ')) {
    if (option === '') continue;
    if (!option.startsWith(OPTION)) {
      throw dev.error('EINVAL', 'match', `unknown option "${option}"; only ${OPTION}<uuid> is known`);
    }
    if (token !== undefined) throw dev.error('EINVAL', 'match', `option ${OPTION} is given twice`);
    token = nameDevice(dev, () => parseUuid(option.slice(OPTION.length)));
  }
  return { token };
}

/**
 * Whether a string of GROUP_GET_DEVICE_FD names this device. Where it does, its token is checked: `vfio_pci_core_match`.
 *
 * @throws EINVAL (as {@link parseDeviceName} and {@link vfioPciCoreMatchTokenUuid}), EACCES (token).
 */
export function vfioPciCoreMatch(dev: VfioPciCoreDevice, name: string): boolean {
  const found = parseDeviceName(dev, name);
  if (found === undefined) return false;
  dev.ops.matchTokenUuid(dev, found.token);
  return true;
}

/**
 * Opens the device that a string of GROUP_GET_DEVICE_FD names.
 *
 * @throws ENODEV where none of the devices is named, and what `match` and `open` say.
 */
export async function vfioOpenByName(devices: Iterable<VfioPciCoreDevice>, name: string): Promise<VfioDevice> {
  for (const dev of devices) {
    if (!dev.ops.match(dev, name)) continue;
    const token = parseDeviceName(dev, name)?.token;
    return dev.open(token === undefined ? {} : { vfToken: token });
  }
  throw errnoError('ENODEV', `no device is named by "${name}"`, { op: 'GROUP_GET_DEVICE_FD' });
}

/**
 * Checks the token of who wants to open the device: `vfio_pci_core_match_token_uuid`. A VF's opener must know the token of
 * its PF where both belong to VFIO; a PF's opener must know it while VFs are in use, and may set it while none is.
 *
 * @throws EINVAL for a token that nobody asked for, EACCES for a missing or wrong one.
 */
export function vfioPciCoreMatchTokenUuid(dev: VfioPciCoreDevice, uuid: Uint8Array | undefined): void {
  const { vf } = dev;
  if (dev.fn.physfn !== undefined) {
    if (vf.pf === undefined) {
      if (uuid === undefined) return;
      throw dev.error('EINVAL', 'matchTokenUuid', 'a VF token was given, but the PF is not in use by VFIO');
    }
    if (uuid === undefined)
      throw dev.error('EACCES', 'matchTokenUuid', 'the VF token of the PF is needed to open this VF');
    if (vf.pf.vf.token === undefined || !equal(uuid, vf.pf.vf.token)) {
      throw dev.error('EACCES', 'matchTokenUuid', 'the VF token is not that of the PF');
    }
    return;
  }
  if (vf.token !== undefined) {
    if (vf.users > 0) {
      if (uuid === undefined)
        throw dev.error('EACCES', 'matchTokenUuid', 'VFs are in use, so the VF token is needed to open the PF');
      if (!equal(uuid, vf.token))
        throw dev.error('EACCES', 'matchTokenUuid', 'VFs are in use, and the VF token is not theirs');
    } else if (uuid !== undefined) vf.token = uuid.slice();
    return;
  }
  if (uuid !== undefined)
    throw dev.error('EINVAL', 'matchTokenUuid', 'a VF token was given, but the function has no VFs and is none');
}

/** VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, SET: replaces the token at any time. @throws EINVAL for fewer than 16 bytes. */
export function setVfToken(dev: VfioPciCoreDevice, value: unknown): void {
  if (!(value instanceof Uint8Array) || value.length < TOKEN_BYTES) {
    throw dev.error('EINVAL', 'PCI_VF_TOKEN', `the token must be ${TOKEN_BYTES} bytes`);
  }
  dev.vf.token = value.slice(0, TOKEN_BYTES);
}

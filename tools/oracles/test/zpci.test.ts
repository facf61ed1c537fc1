/** GET_INFO of zPCI functions, as an s390x kernel answered it: the capabilities that zdev makes of what sysfs and CLP say. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { EmulatedZpci } from '@vfio/emulated';
import { decodeDeviceInfo, encodeDeviceCap, encodeDeviceInfo } from '@vfio/uapi';
import { zpciCaps } from '@vfio/zdev';
import { expect, test } from 'vitest';
import { OWN_VECTORS } from '../src/config-space-recording.js';

const { functions } = JSON.parse(readFileSync(join(OWN_VECTORS, 'zpci/linux-6.12.json'), 'utf8')) as {
  readonly functions: Record<
    string,
    { readonly sysfs: Record<string, string>; readonly VFIO_DEVICE_GET_INFO: readonly [string] }
  >;
};

test.each(Object.entries(functions))('%s, byte for byte', (_address, { sysfs, VFIO_DEVICE_GET_INFO: [recorded] }) => {
  const attribute = (name: string) => Number(sysfs[name]);
  // What is not in sysfs is the same for every function of the emulated machine that was recorded: EmulatedZpci's defaults.
  const facts = new EmulatedZpci({
    fh: attribute('function_handle'),
    fid: attribute('function_id'),
    pchid: attribute('pchid'),
    vfn: attribute('vfn'),
    pft: attribute('pft'),
    gid: attribute('pfgid'),
    pfip: Uint8Array.from({ length: 4 }, (_, segment) => attribute(`pfip/segment${segment}`)),
    // 6.12 keeps no error records.
    hasErrors: false,
  });
  const { info, argsz } = decodeDeviceInfo(Uint8Array.from(Buffer.from(recorded, 'hex')), false);
  const ours = { ...info, caps: zpciCaps(facts).map((cap) => encodeDeviceCap(cap, false)) };
  expect(Buffer.from(encodeDeviceInfo(ours, argsz, { littleEndian: false })).toString('hex')).toBe(recorded);
});

/** The device regions of an Intel graphics function, as the kernel's vfio-pci announced them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { deviceOf, OpsRegistry, PciBus } from '@vfio/core';
import { addIgd, EmulatedPciHost, makeVbt } from '@vfio/emulated';
import { igdVfioPciDriver } from '@vfio/igd';
import { decodeRegionInfo, encodeRegionInfo } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { OWN_VECTORS } from '../src/config-space-recording.js';

const { REGION_INFO: recorded } = JSON.parse(readFileSync(join(OWN_VECTORS, 'igd/linux-7.3.4.json'), 'utf8')) as {
  readonly REGION_INFO: readonly string[];
};

test('GET_REGION_INFO of each is byte for byte what the kernel replied', async () => {
  // As the recording's module was told: ver=0x0200 rvds=0x2000.
  const host = new EmulatedPciHost();
  const { igd } = addIgd(host, { version: 0x0200, vbt: makeVbt(0x2000), class: 0x038000 });
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(igdVfioPciDriver());
  await bus.bindOverride(igd, 'igd_vfio_pci');
  await using device = await deviceOf(bus, igd).open();
  const replies = recorded.map((reply) => {
    const { info, argsz } = decodeRegionInfo(Uint8Array.from(Buffer.from(reply, 'hex')), true);
    const ours = { ...device.getRegionInfo(info.index), offset: info.index * 2 ** 40 };
    return Buffer.from(encodeRegionInfo(ours, argsz, { littleEndian: true })).toString('hex');
  });
  expect(replies).toEqual(recorded);
  expect(device.getInfo().numRegions).toBe(9 + recorded.length);
});

/** Replies of real kernels, read and written again byte for byte: one big-endian, one with device regions. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeConfigSpace } from '@vfio/core';
import {
  decodeDeviceCap,
  decodeDeviceInfo,
  decodeIommuType1Info,
  decodeRegionInfo,
  encodeDeviceCap,
  encodeDeviceInfo,
  encodeRegionInfo,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_DEVICE_INFO_CAP_ZPCI_BASE,
  VFIO_DEVICE_INFO_CAP_ZPCI_GROUP,
  VFIO_DEVICE_INFO_CAP_ZPCI_PFIP,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION,
  VFIO_REGION_TYPE_PCI_VENDOR_TYPE,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { OWN_VECTORS } from '../src/config-space-recording.js';

interface RecordedInfo {
  readonly VFIO_DEVICE_GET_INFO: readonly [string];
  readonly VFIO_IOMMU_GET_INFO: readonly [string];
  readonly CONFIG: readonly [string];
}

function recorded<T>(file: string): T {
  return JSON.parse(readFileSync(join(OWN_VECTORS, file), 'utf8')) as T;
}

const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));
const hex = (data: Uint8Array): string => Buffer.from(data).toString('hex');

const { functions } = recorded<{
  readonly functions: Record<string, RecordedInfo & { readonly sysfs: Record<string, string> }>;
}>('zpci/linux-6.12.json');

describe.each(Object.entries(functions))('big-endian, zPCI function %s', (_address, { sysfs, ...calls }) => {
  const attribute = (name: string): number => Number(sysfs[name]);
  const [reply] = calls.VFIO_DEVICE_GET_INFO;
  const { info, argsz } = decodeDeviceInfo(bytes(reply), false);
  const caps = info.caps.map((cap) => decodeDeviceCap(cap, false)!);

  test('its capabilities say what sysfs says', () => {
    expect(info).toMatchObject({ numRegions: VFIO_PCI_NUM_REGIONS, numIrqs: VFIO_PCI_NUM_IRQS });
    expect(info.flags).toBe(VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET);
    expect(caps).toMatchObject([
      {
        id: VFIO_DEVICE_INFO_CAP_ZPCI_BASE,
        version: 2,
        fh: attribute('function_handle'),
        pchid: attribute('pchid'),
        vfn: attribute('vfn'),
        pft: attribute('pft'),
        gid: attribute('pfgid'),
        ccdfErrLength: undefined,
      },
      // What every zPCI function is told of store blocks, whatever the group really takes.
      { id: VFIO_DEVICE_INFO_CAP_ZPCI_GROUP, version: 2, maxstbl: 128 },
      {
        id: VFIO_DEVICE_INFO_CAP_ZPCI_PFIP,
        version: 1,
        pfip: Uint8Array.from({ length: 4 }, (_, segment) => attribute(`pfip/segment${segment}`)),
      },
    ]);
  });

  test('written again it is the same, byte for byte', () => {
    const again = { ...info, caps: caps.map((cap) => encodeDeviceCap(cap, false)) };
    expect(hex(encodeDeviceInfo(again, argsz, { littleEndian: false }))).toBe(reply);
  });

  test('config space is little-endian all the same', () => {
    const { vendor, device, class: deviceClass } = decodeConfigSpace(bytes(calls.CONFIG[0]));
    expect([vendor, device, deviceClass]).toEqual(['vendor', 'device', 'class'].map(attribute));
  });

  test('its IOMMU maps pages of 4 KiB', () => {
    const { info: iommu, argsz: size } = decodeIommuType1Info(bytes(calls.VFIO_IOMMU_GET_INFO[0]), false);
    expect(size).toBe(calls.VFIO_IOMMU_GET_INFO[0].length / 2);
    expect(iommu).toMatchObject({ iovaPgsizes: 0x1000n, migration: { pgsizeBitmap: 0x1000n }, dmaAvail: 0xffff });
    expect(iommu.iovaRanges?.length).toBeGreaterThan(0);
  });
});

describe('device regions of an Intel graphics function', () => {
  const igd = recorded<RecordedInfo & { readonly REGION_INFO: readonly string[] }>('igd/linux-7.3.4.json');

  test('are counted in GET_INFO', () => {
    const { info } = decodeDeviceInfo(bytes(igd.VFIO_DEVICE_GET_INFO[0]), true);
    expect(info.numRegions).toBe(VFIO_PCI_NUM_REGIONS + igd.REGION_INFO.length);
  });

  test.each(igd.REGION_INFO.map((reply, at) => [at, reply] as const))('region 9 + %i has its type', (at, reply) => {
    const { info, argsz } = decodeRegionInfo(bytes(reply), true);
    expect(info).toMatchObject({
      index: VFIO_PCI_NUM_REGIONS + at,
      offset: (VFIO_PCI_NUM_REGIONS + at) * 2 ** 40,
      caps: [
        {
          id: VFIO_REGION_INFO_CAP_TYPE,
          version: 1,
          type: VFIO_REGION_TYPE_PCI_VENDOR_TYPE + 0x8086,
          subtype: VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION + at,
        },
      ],
    });
    expect(hex(encodeRegionInfo(info, argsz, { littleEndian: true }))).toBe(reply);
  });
});

/**
 * One vector a struct, made apart from this package: each field's bytes count on, so a field that is moved, swapped or of
 * another width shows.
 */
export interface StructVector {
  readonly value: Readonly<Record<string, number | bigint | string>>;
  readonly little: string;
  readonly big: string;
}

/** A string is the hex of a byte array. */
export const STRUCT_VECTORS: Readonly<Record<string, StructVector>> = {
  vfioGroupStatus: {
    value: { argsz: 0x1020304, flags: 0x5060708 },
    little: '0403020108070605',
    big: '0102030405060708',
  },
  vfioIommuType1Info: {
    value: { argsz: 0x1020304, flags: 0x5060708, iovaPgsizes: 0x90a0b0c0d0e0f10n, capOffset: 0x11121314 },
    little: '0403020108070605100f0e0d0c0b0a091413121100000000',
    big: '0102030405060708090a0b0c0d0e0f101112131400000000',
  },
  vfioIommuType1DmaMap: {
    value: {
      argsz: 0x1020304,
      flags: 0x5060708,
      vaddr: 0x90a0b0c0d0e0f10n,
      iova: 0x1112131415161718n,
      size: 0x191a1b1c1d1e1f20n,
    },
    little: '0403020108070605100f0e0d0c0b0a091817161514131211201f1e1d1c1b1a19',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20',
  },
  vfioIommuType1DmaUnmap: {
    value: { argsz: 0x1020304, flags: 0x5060708, iova: 0x90a0b0c0d0e0f10n, size: 0x1112131415161718n },
    little: '0403020108070605100f0e0d0c0b0a091817161514131211',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718',
  },
  vfioBitmap: {
    value: { pgsize: 0x102030405060708n, size: 0x90a0b0c0d0e0f10n, data: 0x1112131415161718n },
    little: '0807060504030201100f0e0d0c0b0a091817161514131211',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718',
  },
  vfioIommuType1DirtyBitmap: {
    value: { argsz: 0x1020304, flags: 0x5060708 },
    little: '0403020108070605',
    big: '0102030405060708',
  },
  vfioIommuType1DirtyBitmapGet: {
    value: {
      iova: 0x102030405060708n,
      size: 0x90a0b0c0d0e0f10n,
      bitmapPgsize: 0x1112131415161718n,
      bitmapSize: 0x191a1b1c1d1e1f20n,
      bitmapData: 0x2122232425262728n,
    },
    little: '0807060504030201100f0e0d0c0b0a091817161514131211201f1e1d1c1b1a192827262524232221',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728',
  },
  vfioIovaRange: {
    value: { start: 0x102030405060708n, end: 0x90a0b0c0d0e0f10n },
    little: '0807060504030201100f0e0d0c0b0a09',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioInfoCapHeader: {
    value: { id: 0x102, version: 0x304, next: 0x5060708 },
    little: '0201040308070605',
    big: '0102030405060708',
  },
  vfioIommuType1InfoCapIovaRange: {
    value: { nrIovas: 0x1020304 },
    little: '0403020100000000',
    big: '0102030400000000',
  },
  vfioIommuType1InfoCapMigration: {
    value: { flags: 0x1020304, pgsizeBitmap: 0x5060708090a0b0cn, maxDirtyBitmapSize: 0xd0e0f1011121314n },
    little: '04030201000000000c0b0a090807060514131211100f0e0d',
    big: '010203040000000005060708090a0b0c0d0e0f1011121314',
  },
  vfioIommuType1InfoDmaAvail: {
    value: { avail: 0x1020304 },
    little: '04030201',
    big: '01020304',
  },
  vfioRegionSparseMmapArea: {
    value: { offset: 0x2030405060708, size: 0xa0b0c0d0e0f10 },
    little: '0807060504030200100f0e0d0c0b0a00',
    big: '0002030405060708000a0b0c0d0e0f10',
  },
  vfioRegionInfoCapSparseMmap: {
    value: { nrAreas: 0x1020304 },
    little: '0403020100000000',
    big: '0102030400000000',
  },
  vfioRegionInfoCapType: {
    value: { type: 0x1020304, subtype: 0x5060708 },
    little: '0403020108070605',
    big: '0102030405060708',
  },
  vfioRegionInfoCapNvlink2Ssatgt: {
    value: { tgt: 0x102030405060708n },
    little: '0807060504030201',
    big: '0102030405060708',
  },
  vfioRegionInfoCapNvlink2Lnkspd: {
    value: { linkSpeed: 0x1020304 },
    little: '0403020100000000',
    big: '0102030400000000',
  },
  vfioDeviceInfoCapPciAtomicComp: {
    value: { flags: 0x1020304 },
    little: '0403020100000000',
    big: '0102030400000000',
  },
  vfioDeviceInfoCapZpciBase: {
    value: {
      startDma: 0x102030405060708n,
      endDma: 0x90a0b0c0d0e0f10n,
      pchid: 0x1112,
      vfn: 0x1314,
      fmbLength: 0x1516,
      pft: 0x17,
      gid: 0x18,
      fh: 0x191a1b1c,
      ccdfErrLength: 0x1d1e1f20,
    },
    little: '0807060504030201100f0e0d0c0b0a0912111413161517181c1b1a19201f1e1d',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20',
  },
  vfioDeviceInfoCapZpciGroup: {
    value: {
      dasm: 0x102030405060708n,
      msiAddr: 0x90a0b0c0d0e0f10n,
      flags: 0x1112131415161718n,
      mui: 0x191a,
      noi: 0x1b1c,
      maxstbl: 0x1d1e,
      pciVersion: 0x1f,
      imaxstbl: 0x2021,
    },
    little: '0807060504030201100f0e0d0c0b0a0918171615141312111a191c1b1e1d1f002120000000000000',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f002021000000000000',
  },
  vfioDeviceInfoCapZpciUtil: {
    value: { size: 0x1020304 },
    little: '04030201',
    big: '01020304',
  },
  vfioDeviceInfoCapZpciPfip: {
    value: { size: 0x1020304 },
    little: '04030201',
    big: '01020304',
  },
  vfioDeviceInfo: {
    value: { argsz: 0x1020304, flags: 0x5060708, numRegions: 0x90a0b0c, numIrqs: 0xd0e0f10, capOffset: 0x11121314 },
    little: '04030201080706050c0b0a09100f0e0d1413121100000000',
    big: '0102030405060708090a0b0c0d0e0f101112131400000000',
  },
  vfioRegionInfo: {
    value: {
      argsz: 0x1020304,
      flags: 0x5060708,
      index: 0x90a0b0c,
      capOffset: 0xd0e0f10,
      size: 0x2131415161718,
      offset: 0xa1b1c1d1e1f20,
    },
    little: '04030201080706050c0b0a09100f0e0d1817161514130200201f1e1d1c1b0a00',
    big: '0102030405060708090a0b0c0d0e0f100002131415161718000a1b1c1d1e1f20',
  },
  vfioIrqInfo: {
    value: { argsz: 0x1020304, flags: 0x5060708, index: 0x90a0b0c, count: 0xd0e0f10 },
    little: '04030201080706050c0b0a09100f0e0d',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioIrqSet: {
    value: { argsz: 0x1020304, flags: 0x5060708, index: 0x90a0b0c, start: 0xd0e0f10, count: 0x11121314 },
    little: '04030201080706050c0b0a09100f0e0d14131211',
    big: '0102030405060708090a0b0c0d0e0f1011121314',
  },
  vfioPciDependentDevice: {
    value: { groupId: 0x1020304, segment: 0x506, bus: 0x7, devfn: 0x8 },
    little: '0403020106050708',
    big: '0102030405060708',
  },
  vfioPciHotResetInfo: {
    value: { argsz: 0x1020304, flags: 0x5060708, count: 0x90a0b0c },
    little: '04030201080706050c0b0a09',
    big: '0102030405060708090a0b0c',
  },
  vfioPciHotReset: {
    value: { argsz: 0x1020304, flags: 0x5060708, count: 0x90a0b0c },
    little: '04030201080706050c0b0a09',
    big: '0102030405060708090a0b0c',
  },
  vfioDeviceIoeventfd: {
    value: {
      argsz: 0x1020304,
      flags: 0x5060708,
      offset: 0x90a0b0c0d0e0f10n,
      data: 0x1112131415161718n,
      fd: -0x66e5e4e4,
    },
    little: '0403020108070605100f0e0d0c0b0a0918171615141312111c1b1a9900000000',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718991a1b1c00000000',
  },
  vfioDeviceFeature: {
    value: { argsz: 0x1020304, flags: 0x5060708 },
    little: '0403020108070605',
    big: '0102030405060708',
  },
  vfioDeviceBindIommufd: {
    value: {
      argsz: 0x1020304,
      flags: 0x5060708,
      iommufd: -0x76f5f4f4,
      outDevid: 0xd0e0f10,
      tokenUuidPtr: 0x1112131415161718n,
    },
    little: '04030201080706050c0b0a89100f0e0d1817161514131211',
    big: '0102030405060708890a0b0c0d0e0f101112131415161718',
  },
  vfioDeviceAttachIommufdPt: {
    value: { argsz: 0x1020304, flags: 0x5060708, ptId: 0x90a0b0c, pasid: 0xd0e0f10 },
    little: '04030201080706050c0b0a09100f0e0d',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioDeviceDetachIommufdPt: {
    value: { argsz: 0x1020304, flags: 0x5060708, pasid: 0x90a0b0c },
    little: '04030201080706050c0b0a09',
    big: '0102030405060708090a0b0c',
  },
  vfioDeviceFeaturePciVfToken: {
    value: { uuid: '0102030405060708090a0b0c0d0e0f10' },
    little: '0102030405060708090a0b0c0d0e0f10',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioDeviceFeatureMigration: {
    value: { flags: 0x2030405060708 },
    little: '0807060504030200',
    big: '0002030405060708',
  },
  vfioDeviceFeatureMigState: {
    value: { deviceState: 0x1020304, dataFd: -0x7af9f8f8 },
    little: '0403020108070685',
    big: '0102030485060708',
  },
  vfioDeviceLowPowerEntryWithWakeup: {
    value: { wakeupEventfd: -0x7efdfcfc },
    little: '0403028100000000',
    big: '8102030400000000',
  },
  vfioDeviceFeatureDmaLoggingControl: {
    value: { pageSize: 0x102030405060708n, numRanges: 0x90a0b0c, ranges: 0xd0e0f1011121314n },
    little: '08070605040302010c0b0a090000000014131211100f0e0d',
    big: '0102030405060708090a0b0c000000000d0e0f1011121314',
  },
  vfioDeviceFeatureDmaLoggingRange: {
    value: { iova: 0x102030405060708n, length: 0x90a0b0c0d0e0f10n },
    little: '0807060504030201100f0e0d0c0b0a09',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioDeviceFeatureDmaLoggingReport: {
    value: {
      iova: 0x102030405060708n,
      length: 0x90a0b0c0d0e0f10n,
      pageSize: 0x1112131415161718n,
      bitmap: 0x191a1b1c1d1e1f20n,
    },
    little: '0807060504030201100f0e0d0c0b0a091817161514131211201f1e1d1c1b1a19',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20',
  },
  vfioDeviceFeatureMigDataSize: {
    value: { stopCopyLength: 0x102030405060708n },
    little: '0807060504030201',
    big: '0102030405060708',
  },
  vfioDeviceFeatureBusMaster: {
    value: { op: 0x1020304 },
    little: '04030201',
    big: '01020304',
  },
  vfioRegionDmaRange: {
    value: { offset: 0x102030405060708n, length: 0x90a0b0c0d0e0f10n },
    little: '0807060504030201100f0e0d0c0b0a09',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioDeviceFeatureDmaBuf: {
    value: { regionIndex: 0x1020304, openFlags: 0x5060708, flags: 0x90a0b0c, nrRanges: 0xd0e0f10 },
    little: '04030201080706050c0b0a09100f0e0d',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioDeviceFeatureZpciErr: {
    value: { data: 0x102030405060708n },
    little: '0807060504030201',
    big: '0102030405060708',
  },
  vfioPrecopyInfo: {
    value: { argsz: 0x1020304, flags: 0x5060708, initialBytes: 0x90a0b0c0d0e0f10n, dirtyBytes: 0x1112131415161718n },
    little: '0403020108070605100f0e0d0c0b0a091817161514131211',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718',
  },
  vfioUserHeader: {
    value: { msgId: 0x102, cmd: 0x304, msgSize: 0x5060708, flags: 0x90a0b0c, errorNo: 0xd0e0f10 },
    little: '02010403080706050c0b0a09100f0e0d',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioUserVersion: {
    value: { major: 0x102, minor: 0x304 },
    little: '02010403',
    big: '01020304',
  },
  vfioUserDmaMap: {
    value: {
      argsz: 0x1020304,
      flags: 0x5060708,
      offset: 0x90a0b0c0d0e0f10n,
      iova: 0x1112131415161718n,
      size: 0x191a1b1c1d1e1f20n,
    },
    little: '0403020108070605100f0e0d0c0b0a091817161514131211201f1e1d1c1b1a19',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20',
  },
  vfioUserDmaUnmap: {
    value: { argsz: 0x1020304, flags: 0x5060708, iova: 0x90a0b0c0d0e0f10n, size: 0x1112131415161718n },
    little: '0403020108070605100f0e0d0c0b0a091817161514131211',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718',
  },
  vfioUserBitmap: {
    value: { pgsize: 0x102030405060708n, size: 0xa0b0c0d0e0f10 },
    little: '0807060504030201100f0e0d0c0b0a00',
    big: '0102030405060708000a0b0c0d0e0f10',
  },
  vfioUserDmaAccess: {
    value: { iova: 0x102030405060708n, count: 0xa0b0c0d0e0f10 },
    little: '0807060504030201100f0e0d0c0b0a00',
    big: '0102030405060708000a0b0c0d0e0f10',
  },
  vfioUserRegionAccess: {
    value: { offset: 0x2030405060708, region: 0x90a0b0c, count: 0xd0e0f10 },
    little: '08070605040302000c0b0a09100f0e0d',
    big: '0002030405060708090a0b0c0d0e0f10',
  },
  vfioUserWriteMulti: {
    value: { wrCnt: 0x2030405060708 },
    little: '0807060504030200',
    big: '0002030405060708',
  },
  vfioUserMultiWrite: {
    value: { offset: 0x2030405060708, region: 0x90a0b0c, count: 0xd0e0f10, data: '1112131415161718' },
    little: '08070605040302000c0b0a09100f0e0d1112131415161718',
    big: '0002030405060708090a0b0c0d0e0f101112131415161718',
  },
  vfioUserDeviceInfo: {
    value: { argsz: 0x1020304, flags: 0x5060708, numRegions: 0x90a0b0c, numIrqs: 0xd0e0f10 },
    little: '04030201080706050c0b0a09100f0e0d',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioUserRegionIoFds: {
    value: { argsz: 0x1020304, flags: 0x5060708, index: 0x90a0b0c, count: 0xd0e0f10 },
    little: '04030201080706050c0b0a09100f0e0d',
    big: '0102030405060708090a0b0c0d0e0f10',
  },
  vfioUserIoFd: {
    value: {
      offset: 0x2030405060708,
      size: 0xa0b0c0d0e0f10,
      fdIndex: 0x11121314,
      type: 0x15161718,
      flags: 0x191a1b1c,
      shadowFdIndex: 0x1d1e1f20,
      data: 0x2122232425262728n,
    },
    little: '0807060504030200100f0e0d0c0b0a0014131211181716151c1b1a19201f1e1d2827262524232221',
    big: '0002030405060708000a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728',
  },
  vfioUserIoFdShadow: {
    value: {
      offset: 0x2030405060708,
      size: 0xa0b0c0d0e0f10,
      fdIndex: 0x11121314,
      type: 0x15161718,
      flags: 0x191a1b1c,
      shadowFdIndex: 0x1d1e1f20,
      shadowOffset: 0x2122232425262728n,
      data: 0x292a2b2c2d2e2f30n,
    },
    little: '0807060504030200100f0e0d0c0b0a0014131211181716151c1b1a19201f1e1d2827262524232221302f2e2d2c2b2a29',
    big: '0002030405060708000a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30',
  },
  vfioUserMigData: {
    value: { argsz: 0x1020304, size: 0x5060708 },
    little: '0403020108070605',
    big: '0102030405060708',
  },
  vfioUserMigState: {
    value: { deviceState: 0x1020304 },
    little: '0403020100000000',
    big: '0102030400000000',
  },
  vfioUserDmaLoggingControl: {
    value: { pageSize: 0x102030405060708n, numRanges: 0x90a0b0c },
    little: '08070605040302010c0b0a0900000000',
    big: '0102030405060708090a0b0c00000000',
  },
  vfioUserDmaLoggingReport: {
    value: { iova: 0x102030405060708n, length: 0x90a0b0c0d0e0f10n, pageSize: 0x1112131415161718n },
    little: '0807060504030201100f0e0d0c0b0a091817161514131211',
    big: '0102030405060708090a0b0c0d0e0f101112131415161718',
  },
};

import { expect, test } from 'vitest';
import { pciDevfn, pciFunc, pciSlot } from './pci-ids.js';
import * as pci from './pci-regs.js';

test('an extended capability header is taken apart and put together', () => {
  expect(pci.pciExtCapId(0x14810010)).toBe(0x0010);
  expect(pci.pciExtCapVer(0x14810010)).toBe(1);
  expect(pci.pciExtCapNext(0x14810010)).toBe(0x148);
  expect(pci.pciExtCapHeader(0x10, 1, 0x148)).toBe(0x14810010);
});

test('the next extended capability is rounded down to a dword', () => {
  expect(pci.pciExtCapNext(0xfff00000)).toBe(0xffc);
  expect(pci.pciExtCapHeader(0xffff, 0xf, 0xfff)).toBe(0xffcfffff);
});

test('headers of vendor-specific capabilities are taken apart without a sign', () => {
  expect(pci.pciVndrHeaderId(0xfff5abcd)).toBe(0xabcd);
  expect(pci.pciVndrHeaderRev(0xfff5abcd)).toBe(5);
  expect(pci.pciVndrHeaderLen(0xfff5abcd)).toBe(0xfff);
  expect(pci.pciDvsecHeader1Vid(0xc03a1e98)).toBe(0x1e98);
  expect(pci.pciDvsecHeader1Rev(0xc03a1e98)).toBe(0xa);
  expect(pci.pciDvsecHeader1Len(0xc03a1e98)).toBe(0xc03);
  expect(pci.pciDvsecHeader2Id(0xffff0008)).toBe(8);
});

test('other registers are taken apart', () => {
  expect(pci.pciXCmdVersion(0x2fff)).toBe(2);
  expect(pci.pciAriCapNfn(0x1203)).toBe(0x12);
  expect(pci.pciAriCtrlFg(0x0073)).toBe(7);
  expect(pci.pciAtsCapQdep(0xffe5)).toBe(5);
  expect(pci.pciAtsCtrlStu(0x801f)).toBe(0x1f);
  expect(pci.pciErrCapFep(0xffffffff)).toBe(0x1f);
  expect(pci.pciSriovCapIntr(0xffe00001)).toBe(0x7ff);
});

test('device and function numbers share one byte', () => {
  expect(pciDevfn(0x1f, 7)).toBe(0xff);
  expect(pciDevfn(3, 1)).toBe(0x19);
  expect(pciSlot(0x19)).toBe(3);
  expect(pciFunc(0x19)).toBe(1);
});

test('the capabilities end where current kernels say they do', () => {
  expect(pci.PCI_CAP_ID_MAX).toBe(0x14);
  expect(pci.PCI_EXT_CAP_ID_MAX).toBe(0x31);
  // As far as vfio-pci shows the PCI Express capability: 52 bytes, 44 of an endpoint of a root complex.
  expect(pci.PCI_CAP_EXP_ENDPOINT_SIZEOF_V2).toBe(52);
  expect(pci.PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V2).toBe(44);
});

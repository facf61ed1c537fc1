/**
 * Ids and class codes of PCI functions that the packages of this project refer to by name (spelling of the kernel's
 * `linux/pci_ids.h` and `linux/mod_devicetable.h`; values assigned by the PCI-SIG), and the encoding of device and
 * function numbers.
 */

/** Matches any vendor, device, subvendor or subdevice. */
export const PCI_ANY_ID = 0xffffffff;
/** Bit of `overrideOnly`: the entry counts only for a function whose driver_override names the driver. */
export const PCI_ID_F_VFIO_DRIVER_OVERRIDE = 1;

/* Base classes (8 bits), classes (16 bits) and classes with their programming interface (24 bits) */
export const PCI_BASE_CLASS_STORAGE = 0x01;
export const PCI_CLASS_STORAGE_EXPRESS = 0x010802;
export const PCI_BASE_CLASS_NETWORK = 0x02;
export const PCI_CLASS_NETWORK_ETHERNET = 0x0200;
export const PCI_BASE_CLASS_DISPLAY = 0x03;
export const PCI_CLASS_DISPLAY_VGA = 0x0300;
export const PCI_BASE_CLASS_BRIDGE = 0x06;
export const PCI_CLASS_BRIDGE_HOST = 0x0600;
export const PCI_CLASS_BRIDGE_ISA = 0x0601;
export const PCI_CLASS_BRIDGE_PCI = 0x0604;
export const PCI_CLASS_COMMUNICATION_SERIAL = 0x0700;
export const PCI_CLASS_OTHERS = 0xff;

/* Vendors */
export const PCI_VENDOR_ID_INTEL = 0x8086;
export const PCI_VENDOR_ID_MELLANOX = 0x15b3;
export const PCI_VENDOR_ID_REDHAT = 0x1b36;
export const PCI_VENDOR_ID_QEMU = 0x1234;
export const PCI_VENDOR_ID_IBM = 0x1014;
export const PCI_VENDOR_ID_WCH = 0x4348;

/* Devices of WCH */
export const PCI_DEVICE_ID_WCH_CH352_2S = 0x3253;

/** `devfn` of a device number (0 to 31) and a function number (0 to 7). */
export function pciDevfn(slot: number, func: number): number {
  return ((slot & 0x1f) << 3) | (func & 0x07);
}

/** Device number in a `devfn`. */
export function pciSlot(devfn: number): number {
  return (devfn >> 3) & 0x1f;
}

/** Function number in a `devfn`. */
export function pciFunc(devfn: number): number {
  return devfn & 0x07;
}

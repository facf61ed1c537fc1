import type { PciIdentity } from '@vfio/core';

const digits = (value: number, count: number): string => value.toString(16).padStart(count, '0');

/** `8086:5845` */
export const formatIds = (fn: PciIdentity): string => `${digits(fn.vendor, 4)}:${digits(fn.device, 4)}`;

/** `1af4:1100` */
export const formatSubsystem = (fn: PciIdentity): string => `${digits(fn.subvendor, 4)}:${digits(fn.subdevice, 4)}`;

/** `010802` */
export const formatClass = (fn: PciIdentity): string => digits(fn.class, 6);

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** A size in the largest unit in which it is whole. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && value % 1024 === 0 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value} ${UNITS[unit]}`;
}

/** A size in three digits or so: `1.4 GiB`. */
export function formatRoughly(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

import { expect } from 'vitest';
import type { Guest } from '../src/guest.js';

/** Binds a function to the guest's own vfio-pci. */
export async function giveToVfio(guest: Guest, address: string): Promise<void> {
  await guest.ok('modprobe -a vfio_iommu_type1 vfio-pci');
  await guest.ok(
    `echo vfio-pci >/sys/bus/pci/devices/${address}/driver_override; echo ${address} >/sys/bus/pci/drivers_probe`,
  );
}

/** Runs guest/edu.c, which must have nothing to complain of. */
export async function driveEdu(guest: Guest, words: string): Promise<void> {
  const { code, stdout, stderr } = await guest.run(`edu ${words}`, { seconds: 120 });
  // Lines of checks that passed only make a failure harder to read.
  expect({ code, failed: stdout.match(/^FAIL .*$/gm) ?? [], stderr }).toEqual({ code: 0, failed: [], stderr: '' });
  expect(stdout).toMatch(/edu: all checks passed\n$/);
}

import type { PciFunction, PciHost } from '@vfio/core';
import { addIgd, createDemoHost, DEMO, EmulatedPciHost, makeVbt } from '@vfio/emulated';

/** A function of a new emulated host, so that no case sees what another did. */
export function demoFunction(name: keyof typeof DEMO): { readonly host: PciHost; readonly fn: PciFunction } {
  const host = createDemoHost();
  const fn = host.find(DEMO[name]);
  if (fn === undefined) throw new Error(`the demo host has no ${name}`);
  return { host, fn };
}

/** An Intel graphics device with an extended VBT. */
export function igdFunction(): { readonly host: PciHost; readonly fn: PciFunction } {
  const host = new EmulatedPciHost();
  return { host, fn: addIgd(host, { version: 0x0200, vbt: makeVbt(0x2000) }).igd };
}

import type { PciFunction, PciHost } from '@vfio/core';
import { createDemoHost, DEMO } from '@vfio/emulated';

/** A function of a new emulated host, so that no case sees what another did. */
export function demoFunction(name: keyof typeof DEMO): { readonly host: PciHost; readonly fn: PciFunction } {
  const host = createDemoHost();
  const fn = host.find(DEMO[name]);
  if (fn === undefined) throw new Error(`the demo host has no ${name}`);
  return { host, fn };
}

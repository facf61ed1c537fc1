import type { PciFunction } from '@vfio/core';
import { createDemoHost, DEMO, type EmulatedPciHost } from '@vfio/emulated';
import { FileStore, filePersistence } from '@vfio/emulated/node';
import type { HostOptions } from './messages.js';

/** What the namespace in a file has room for, where the file is new. */
const NEW_NAMESPACE_SIZE = 1024 ** 3;

/** The NVMe drives whose namespace can be kept in a file, as the demo's options name them. */
const FILE_DRIVES = { [DEMO.nvme]: 'nvme', [DEMO.nvmeSriov]: 'nvmeSriov' } as const;

export type FileDrive = keyof typeof FILE_DRIVES;

/** Of the functions that are served, the drive whose namespace `--nvme-file` keeps: one of them, or the drive that one is a part of. */
export function fileDrive(functions: readonly PciFunction[]): FileDrive | undefined {
  const served = functions.map((fn) => (fn.physfn ?? fn).address);
  return ([DEMO.nvme, DEMO.nvmeSriov] as const).find((address) => served.includes(address));
}

/** Makes the emulated host: the demo's functions, an NVMe drive's namespace in a file where one is named. */
export function createHost(options: HostOptions): EmulatedPciHost {
  const { nvmeFile, nvmeDrive = DEMO.nvme } = options;
  if (nvmeFile === undefined) return createDemoHost();
  const store = new FileStore(nvmeFile, options.nvmeSize ?? NEW_NAMESPACE_SIZE);
  return createDemoHost({
    [FILE_DRIVES[nvmeDrive]]: {
      namespaces: [{ size: store.size, store }],
      persistence: filePersistence(`${nvmeFile}.state`),
    },
  });
}

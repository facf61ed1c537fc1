import { createDemoHost, type EmulatedPciHost } from '@vfio/emulated';
import { FileStore, filePersistence } from '@vfio/emulated/node';
import type { HostOptions } from './messages.js';

/** What the namespace in a file has room for, where the file is new. */
const NEW_NAMESPACE_SIZE = 1024 ** 3;

/** Makes the emulated host: the demo's functions, the first NVMe controller's namespace in a file where one is named. */
export function createHost(options: HostOptions): EmulatedPciHost {
  const { nvmeFile } = options;
  if (nvmeFile === undefined) return createDemoHost();
  const store = new FileStore(nvmeFile, options.nvmeSize ?? NEW_NAMESPACE_SIZE);
  return createDemoHost({
    nvme: { namespaces: [{ size: store.size, store }], persistence: filePersistence(`${nvmeFile}.state`) },
  });
}

export {
  ADMIN as NVME_ADMIN,
  CC,
  CNS,
  CSTS,
  FEATURE as NVME_FEATURE,
  IO as NVME_IO,
  LOG as NVME_LOG,
  MIGRATION_ADMIN as NVME_MIGRATION_ADMIN,
  REG as NVME_REG,
} from './constants.js';
export { type AdminFault, NvmeController, type NvmeOptions } from './controller.js';
export { NvmeHealth, type NvmePersistence, type NvmePersistentState } from './health.js';
export { NvmeNamespace, type NvmeNamespaceOptions } from './namespace.js';
export { STATUS as NVME_STATUS } from './status.js';
export { type BlockStore, SparseMemoryStore } from './store.js';

export {
  type ErrnoName,
  errnoError,
  hex,
  isVfioError,
  messageOf,
  systemError,
  VFIO_ERROR_CODES,
  VfioError,
  type VfioErrorCode,
  type VfioErrorOptions,
} from '@vfio/uapi';
export * from './describe/index.js';
export * from './device/index.js';
export * from './pci/index.js';

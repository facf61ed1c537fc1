export { CONNECTX_DEVICE, CONNECTX_VF_DEVICE, ConnectX, type ConnectXOptions, ConnectXVf } from './connectx.js';
export { crc32c as connectxChecksum } from './crc32c.js';
export { ENGINE as CONNECTX_ENGINE } from './engine.js';
export type { CommandFault, CommandRecord } from './firmware.js';

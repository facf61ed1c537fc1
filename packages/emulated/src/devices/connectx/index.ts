export { CONNECTX_DEVICE, CONNECTX_VF_DEVICE, ConnectX, type ConnectXOptions } from './connectx.js';
export type { CommandRecord } from './firmware.js';

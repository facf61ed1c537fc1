/**
 * vfio-user: a VFIO device over a Unix socket. A server that QEMU, Cloud Hypervisor and others attach to, and a client.
 *
 * @packageDocumentation
 */
export type { AllocatedMemory } from './client/allocate.js';
export { VfioUserBlockingClient } from './client/blocking-client.js';
export { type ConnectOptions, type DmaAllocRequest, type PostedWrite, VfioUserClient } from './client/client.js';
export type { ClientOptions, ServerLimits } from './client/proposal.js';
export { COMPAT_MODES, type CompatMode, type CompatPolicy, compatPolicy } from './compat.js';
export { type CommandCount, Counters } from './counters.js';
export type { HandoverOptions, HandoverReport } from './handover/source.js';
export {
  type ListenFd,
  type ListenIncoming,
  type ListenPath,
  makeSocketFile,
  removeSocketFile,
  type SocketFile,
} from './listen-socket.js';
export { type Checkpoint, type CheckpointOptions, type LoadOptions, loadFrom, saveTo } from './move/checkpoint.js';
export { type MovedIn, type MoveInOptions, moveIn } from './move/destination.js';
export type { MoveEnd, MovePhase, MoveProgress, MoveReport } from './move/end.js';
export {
  type DeviceManifest,
  describeDevice,
  incompatibilities,
  type MovePurpose,
  migrationFlagNames,
} from './move/manifest.js';
export { type MeetingPoint, meetAt } from './move/meet.js';
export { isUndecided, type MoveOutOptions, moveOut } from './move/source.js';
export * from './negotiation.js';
export { describePulse, makePulse, PulseWatcher } from './pulse.js';
export {
  type AttachedClient,
  type ListenOptions,
  type ServerStats,
  VfioUserServer,
  type VfioUserServerOptions,
} from './server.js';
export { ServiceLoop, type ServiceLoopOptions } from './service-loop.js';
export { COMMAND_NAMES, commandName, describeMessage, type TraceSink } from './trace.js';

import type { VfioDevice, VfioDeviceProvider } from '@vfio/core';
import { closeFd, socketpair } from '@vfio/native';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VfioError,
} from '@vfio/uapi';
import { type CompatMode, type CompatPolicy, compatPolicy } from './compat.js';
import type { Connection } from './connection.js';
import { ClientMemory } from './dma.js';
import { DMA_TIMEOUT_MS } from './limits.js';
import { MessageDma } from './message-dma.js';
import {
  type AgreedLimits,
  answerProposal,
  identifyPeer,
  readProposal,
  type ServerAbilities,
  type VersionReply,
} from './negotiation.js';
import { RegionAccess } from './region-access.js';
import { RegionMemory } from './region-memory.js';
import type { Reply, Request } from './request.js';
import type { ServiceLoop } from './service-loop.js';
import { TwinSocket } from './twin-socket.js';

/** What was agreed on with a client. */
export interface Agreement {
  readonly limits: AgreedLimits;
  readonly compat: CompatPolicy;
  /** Protocol version that both sides speak. */
  readonly minor: number;
}

/** What there is once a client has attached. */
export interface Attachment extends Agreement {
  readonly device: VfioDevice;
  readonly memory: ClientMemory;
  readonly regions: RegionMemory;
  readonly access: RegionAccess;
  readonly dma: MessageDma;
  readonly twin: TwinSocket | undefined;
}

/** An attachment that the client is still to be told of. */
interface Answered {
  readonly attachment: Attachment;
  /** The answer to VERSION. */
  readonly reply: Reply;
}

/** What attaching is told of the server. */
export interface AttachOptions {
  readonly provider: Pick<VfioDeviceProvider, 'open'>;
  readonly vfToken: string | Uint8Array | undefined;
  readonly compat: CompatMode;
  readonly abilities: Omit<ServerAbilities, 'migration'>;
}

/** What attaching uses of the session. */
export interface AttachHooks {
  readonly loop: ServiceLoop;
  readonly connection: Connection;
  readonly mayUseDma: () => boolean;
  readonly warn: (message: string) => void;
  readonly end: (reason: string) => void;
}

/**
 * Carries out VERSION: takes the client's proposal apart, opens the device, and agrees on what both can do.
 * @throws ERR_VFIO_PROTOCOL (EINVAL) for a bad proposal, and what opening the device says; nothing is open then
 */
export async function attach(request: Request, options: AttachOptions, hooks: AttachHooks): Promise<Answered> {
  if (request.fds.length > 0) {
    throw new VfioError('ERR_VFIO_PROTOCOL', 'VERSION with descriptors', { errno: 'EINVAL', op: 'VERSION' });
  }
  const proposal = readProposal(request.payload);
  const compat = compatPolicy(options.compat, identifyPeer(proposal));
  const device = await options.provider.open(options.vfToken === undefined ? undefined : { vfToken: options.vfToken });
  try {
    const abilities = { ...options.abilities, migration: await hasMigration(device) };
    return connect(device, compat, answerProposal(proposal, request.payload.length, abilities), hooks);
  } catch (error) {
    await device.close();
    throw error;
  }
}

function connect(device: VfioDevice, compat: CompatPolicy, answer: VersionReply, hooks: AttachHooks): Answered {
  const limits = answer.agreed;
  const { twin, theirEnd } = limits.twinSocket ? openTwin(hooks) : { twin: undefined, theirEnd: undefined };
  const reply: Reply =
    theirEnd === undefined
      ? { pieces: [answer.payload] }
      : { pieces: [answer.payload], fds: [theirEnd], done: () => closeFd(theirEnd) };
  return { attachment: makeAttachment(device, { limits, compat, minor: answer.minor }, twin, hooks), reply };
}

/** What belongs to a client whose terms are known. */
export function makeAttachment(
  device: VfioDevice,
  agreement: Agreement,
  twin: TwinSocket | undefined,
  hooks: AttachHooks,
): Attachment {
  const { loop, connection } = hooks;
  const { limits, compat } = agreement;
  const dma = new MessageDma({
    connection: twin?.connection ?? connection,
    maxData: limits.maxSendData,
    mayBeLegacyQemu: compat.mayBeLegacyQemu,
    mayUse: twin === undefined ? hooks.mayUseDma : () => true,
    timeoutMs: DMA_TIMEOUT_MS,
  });
  const memory = new ClientMemory({
    device,
    maxMaps: limits.maxDmaMaps,
    remote: dma,
    onMapped: (mapping) => loop.messages.watchMapping(mapping, connection.socket.id),
  });
  return {
    ...agreement,
    device,
    memory,
    regions: new RegionMemory(device, limits.maxSendFds > 0, hooks.warn),
    access: new RegionAccess(device, loop, limits.maxReceiveData, compat.errorsAsData),
    dma,
    twin,
  };
}

function openTwin(hooks: AttachHooks): { twin: TwinSocket; theirEnd: number } {
  const [ours, theirs] = socketpair();
  try {
    return { twin: new TwinSocket(hooks.loop, ours, hooks.connection, hooks.end), theirEnd: theirs };
  } catch (error) {
    closeFd(ours);
    closeFd(theirs);
    throw error;
  }
}

async function hasMigration(device: VfioDevice): Promise<boolean> {
  try {
    await device.deviceFeature({
      flags: VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION,
    });
    return true;
  } catch {
    return false;
  }
}

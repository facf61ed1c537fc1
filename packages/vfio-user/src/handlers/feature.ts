import type { MigrationData } from '@vfio/core';
import {
  decodeVfioUserFeature,
  decodeVfioUserFeatureValue,
  encodeVfioUserFeatureReply,
  errnoError,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_STOP_COPY,
  vfioDeviceFeature,
  vfioUserFeatureCodec,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { malformed, type Reply } from '../request.js';
import type { Handler, HandlerContext } from './handler.js';

/** States in which a stream of device state is open. */
const STREAMING: readonly number[] = [
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
];

/** DEVICE_FEATURE. A change of migration state is answered when the whole way to the new state is done. */
export const deviceFeature: Handler = (context, request): Reply | Promise<Reply> => {
  const { device, limits } = context;
  const feature = decodeVfioUserFeature(request.payload, LITTLE_ENDIAN);
  const { flags, argsz } = feature;
  const index = flags & VFIO_DEVICE_FEATURE_MASK;
  if (vfioUserFeatureCodec(index) === undefined) {
    throw errnoError('ENOTTY', `feature ${index} cannot be had over vfio-user`, { op: 'DEVICE_FEATURE' });
  }
  const isProbe = (flags & VFIO_DEVICE_FEATURE_PROBE) !== 0;
  const isSet = !isProbe && (flags & VFIO_DEVICE_FEATURE_SET) !== 0;
  const given = decodeVfioUserFeatureValue(
    feature,
    { maxReplySize: vfioDeviceFeature.size + limits.maxReceiveData },
    LITTLE_ENDIAN,
  );
  const result = device.deviceFeature(given.value === undefined ? { flags } : { flags, value: given.value });
  const answer = (outcome: unknown): Reply => {
    if (isSet && index === VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE) {
      followState(context, outcome as { state: number; data: MigrationData | undefined });
    }
    if (isSet && index === VFIO_DEVICE_FEATURE_DMA_LOGGING_START) context.isLogging = true;
    if (isSet && index === VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP) context.isLogging = false;
    const reply = encodeVfioUserFeatureReply(feature, given, outcome, LITTLE_ENDIAN);
    if (reply.length > argsz) throw malformed(request, `argsz is ${argsz}, the reply has ${reply.length} bytes`);
    return { pieces: [reply] };
  };
  return result instanceof Promise ? result.then(answer) : answer(result);
};

/** Keeps the stream that a state opened, and lets go of the one that it ended. */
function followState(context: HandlerContext, result: { state: number; data: MigrationData | undefined }): void {
  context.migrationState = result.state;
  if (result.data === undefined && STREAMING.includes(result.state)) return;
  if (result.data === context.migrationData) return;
  context.migrationData?.close();
  context.migrationData = result.data;
}

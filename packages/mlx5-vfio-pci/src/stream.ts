import { encodeRecordHeader, RecordReader } from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { MAX_LOAD_SIZE } from './cmd.js';

/**
 * The records of the kernel's driver, which its streams consist of. Ours begin and end with core's records, which the kernel's
 * driver skips by its own rule: with them a cut or a changed byte is noticed anywhere.
 */
export const TAG = {
  /** An image, to be loaded. */
  FW_DATA: 0,
  /** How large the last image will be, to prepare for: u64. */
  STOP_COPY_SIZE: 1,
} as const;

export function encodeImageHeader(size: number): Uint8Array {
  return encodeRecordHeader(size, TAG.FW_DATA, false);
}

/** The kernel's first record: how large a buffer the last image needs. */
export function encodeStopCopySize(size: number): Uint8Array {
  const header = encodeRecordHeader(8, TAG.STOP_COPY_SIZE, true);
  const bytes = new Uint8Array(header.length + 8);
  bytes.set(header);
  new DataView(bytes.buffer).setBigUint64(header.length, BigInt(size), true);
  return bytes;
}

/** What a reader is told of the records of a stream. */
export interface ImageSink {
  /** An image begins. Returns where its bytes go: at least `size` of them. */
  begin(size: number): Uint8Array | Promise<Uint8Array>;
  /** All of its bytes are there. */
  complete(size: number): Promise<void>;
  stopCopySize(size: number): void | Promise<void>;
}

/** Reads a stream, ours or the kernel's, that arrives in pieces of any size. */
export function imageReader(sink: ImageSink): RecordReader {
  const begin = (tag: number, size: number) => {
    if (tag === TAG.FW_DATA) return sink.begin(size);
    if (tag !== TAG.STOP_COPY_SIZE) return undefined;
    if (size !== 8)
      throw errnoError(
        'EINVAL',
        `the migration stream: a record of the stop-copy size has ${size} bytes, 8 are needed`,
        { op: 'write' },
      );
    return new Uint8Array(size);
  };
  const complete = (tag: number, size: number, payload: Uint8Array) => {
    if (tag === TAG.FW_DATA) return sink.complete(size);
    if (tag !== TAG.STOP_COPY_SIZE) return undefined;
    const wanted = new DataView(payload.buffer).getBigUint64(0, true);
    return sink.stopCopySize(Number(wanted > BigInt(MAX_LOAD_SIZE) ? MAX_LOAD_SIZE : wanted));
  };
  return new RecordReader({ begin, complete }, { maxBytes: MAX_LOAD_SIZE, mustBegin: false });
}

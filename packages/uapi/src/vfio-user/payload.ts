import { VfioError } from '../errors.js';

/** A payload that says something about itself that is not so. */
export function badPayload(command: string, sentence: string): VfioError {
  return new VfioError('ERR_VFIO_INVALID_STRUCT', sentence, { errno: 'EINVAL', op: command });
}

/** Refuses an `argsz` with no room for the fixed part of a struct. */
export function checkArgsz(command: string, argsz: number, size: number): void {
  if (argsz < size) throw badPayload(command, `argsz ${argsz}: at least ${size} is wanted`);
}

/** Refuses data of another length than its count says. */
export function checkDataLength(command: string, found: number, count: number): void {
  if (found !== count) throw badPayload(command, `${found} bytes of data, the count says ${count}`);
}

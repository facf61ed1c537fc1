/** The 16 bytes before every message. */
import { VfioError } from '../errors.js';
import { type StructOf, struct, u16, u32 } from '../struct.js';
import {
  VFIO_USER_F_ERROR,
  VFIO_USER_F_NO_REPLY,
  VFIO_USER_F_TYPE_COMMAND,
  VFIO_USER_F_TYPE_MASK,
  VFIO_USER_F_TYPE_REPLY,
  VFIO_USER_HEADER_SIZE,
  VFIO_USER_MAX_ERRNO,
} from './constants.js';

/** `msgSize` counts the header too. `errorNo` means something only with VFIO_USER_F_ERROR. */
export const vfioUserHeader = struct('vfio_user_header', {
  msgId: u16,
  cmd: u16,
  msgSize: u32,
  flags: u32,
  errorNo: u32,
});
export interface VfioUserHeader extends StructOf<typeof vfioUserHeader> {}

const EINVAL = 22;

/**
 * The rules that every header obeys, whoever sends it: room for itself in its size, no more than the receiver takes, and
 * one of the two types. Unknown flag bits are not looked at.
 * @param maxSize Most bytes that the receiver takes, header included.
 * @throws VfioError ERR_VFIO_PROTOCOL, EINVAL. After a wrong size the stream cannot be followed any more.
 */
export function checkVfioUserHeader(header: Readonly<VfioUserHeader>, maxSize: number): void {
  if (header.msgSize < VFIO_USER_HEADER_SIZE || header.msgSize > maxSize) {
    throw new VfioError(
      'ERR_VFIO_PROTOCOL',
      `a message of ${header.msgSize} bytes (command ${header.cmd}), from ${VFIO_USER_HEADER_SIZE} to ${maxSize} are allowed`,
      { errno: 'EINVAL' },
    );
  }
  const type = header.flags & VFIO_USER_F_TYPE_MASK;
  if (type !== VFIO_USER_F_TYPE_COMMAND && type !== VFIO_USER_F_TYPE_REPLY) {
    throw new VfioError('ERR_VFIO_PROTOCOL', `a message of type ${type}: command or reply is wanted`, {
      errno: 'EINVAL',
    });
  }
}

/** Whether a message answers one. */
export function isVfioUserReply(flags: number): boolean {
  return (flags & VFIO_USER_F_TYPE_MASK) === VFIO_USER_F_TYPE_REPLY;
}

/** Whether a command must not be answered, not even with an error. */
export function isVfioUserNoReply(flags: number): boolean {
  return (flags & (VFIO_USER_F_TYPE_MASK | VFIO_USER_F_NO_REPLY)) === (VFIO_USER_F_TYPE_COMMAND | VFIO_USER_F_NO_REPLY);
}

/**
 * The errno of a reply: 0 for success; EINVAL for an error without a number or with one that is none, as peers send them.
 */
export function vfioUserReplyErrno(header: Readonly<VfioUserHeader>): number {
  if ((header.flags & VFIO_USER_F_ERROR) === 0) return 0;
  return header.errorNo === 0 || header.errorNo > VFIO_USER_MAX_ERRNO ? EINVAL : header.errorNo;
}

/**
 * The header of a command.
 * @param payloadSize Bytes that follow.
 */
export function vfioUserCommandHeader(
  msgId: number,
  cmd: number,
  payloadSize: number,
  isNoReply = false,
): VfioUserHeader {
  return {
    msgId,
    cmd,
    msgSize: VFIO_USER_HEADER_SIZE + payloadSize,
    flags: VFIO_USER_F_TYPE_COMMAND | (isNoReply ? VFIO_USER_F_NO_REPLY : 0),
    errorNo: 0,
  };
}

/** The header of a reply that succeeded: id and command are those of the command. */
export function vfioUserReplyHeader(
  to: Readonly<Pick<VfioUserHeader, 'msgId' | 'cmd'>>,
  payloadSize: number,
): VfioUserHeader {
  return {
    msgId: to.msgId,
    cmd: to.cmd,
    msgSize: VFIO_USER_HEADER_SIZE + payloadSize,
    flags: VFIO_USER_F_TYPE_REPLY,
    errorNo: 0,
  };
}

/** An error reply, which is a header and nothing else. `errorNo` is positive. */
export function vfioUserErrorHeader(
  to: Readonly<Pick<VfioUserHeader, 'msgId' | 'cmd'>>,
  errorNo: number,
): VfioUserHeader {
  return {
    msgId: to.msgId,
    cmd: to.cmd,
    msgSize: VFIO_USER_HEADER_SIZE,
    flags: VFIO_USER_F_TYPE_REPLY | VFIO_USER_F_ERROR,
    errorNo,
  };
}

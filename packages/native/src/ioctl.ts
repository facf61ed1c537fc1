import { hex } from '@vfio/uapi';
import { nativeBinding } from './binding.js';
import { checked } from './syscall-error.js';

/**
 * ioctl(2). `argument` is the struct's bytes (read and written in place) or an integer. The caller has made sure that
 * the bytes are as long as the request's struct says (argsz): the kernel writes without asking us.
 *
 * @param name shown in an error, e.g. `VFIO_DEVICE_GET_INFO`
 * @returns what the ioctl returned, >= 0
 * @throws ERR_VFIO_SYSCALL with the kernel's errno
 */
export function ioctl(
  fd: number,
  request: number,
  argument: Uint8Array | number = 0,
  name: string = hex(request),
): number {
  return checked('ioctl', nativeBinding().ioctl(fd, request, argument), `${name} on descriptor ${fd}`);
}

/** {@link ioctl} that answers a negative errno instead of throwing: for callers who expect one. */
export function tryIoctl(fd: number, request: number, argument: Uint8Array | number = 0): number {
  return nativeBinding().ioctl(fd, request, argument);
}

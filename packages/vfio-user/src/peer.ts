import { peerCredentials } from '@vfio/native';

/** Process at the other end of a socket, as of when it connected or listened; undefined where the socket does not tell. */
export function pidOf(fd: number): number | undefined {
  try {
    return peerCredentials(fd).pid;
  } catch {
    return undefined;
  }
}

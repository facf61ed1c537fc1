import { statSync } from 'node:fs';

/**
 * The sockets that servers of this thread listen on. A blocking call to one of them would wait for a reply that only this
 * thread can give. Kept where every loaded copy of this package finds it; worker threads have their own.
 */
const KEY = Symbol.for('@vfio/vfio-user/local-servers');
const registry = globalThis as { [KEY]?: Set<string> };

/** Identity of a socket file; undefined where there is none. */
export function socketIdentity(path: string): string | undefined {
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true });
  return stat === undefined ? undefined : `${stat.dev}:${stat.ino}`;
}

export function addLocalServer(identity: string): void {
  registry[KEY] ??= new Set();
  registry[KEY].add(identity);
}

export function removeLocalServer(identity: string): void {
  registry[KEY]?.delete(identity);
}

/** Whether a server of this thread listens at a path. */
export function isServedHere(path: string): boolean {
  const identity = socketIdentity(path);
  return identity !== undefined && (registry[KEY]?.has(identity) ?? false);
}

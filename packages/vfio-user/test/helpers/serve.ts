import { readdirSync } from 'node:fs';
import type { VfioDeviceProvider } from '@vfio/core';
import { closeFd, eventfdCreate, memfdCreate, mmap } from '@vfio/native';
import { afterEach } from 'vitest';
import { type ConnectOptions, VfioUserClient, VfioUserServer, type VfioUserServerOptions } from '../../src/index.js';
import { RawClient, socketPath, until } from './raw-client.js';

const undo: (() => unknown)[] = [];

/** Runs after the test, the last one first. */
export function cleanup(step: () => unknown): void {
  undo.push(step);
}

afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

/** A server on a socket of its own, and ways to connect to it. Everything is gone when the test ends. */
export async function serve(device: VfioDeviceProvider, options: VfioUserServerOptions = {}) {
  const socket = socketPath();
  cleanup(socket.remove);
  const warnings: string[] = [];
  const detached: string[] = [];
  const server = new VfioUserServer(device, {
    onWarning: (message) => warnings.push(message),
    onDetach: (reason) => detached.push(reason),
    // A busy machine must not look like a device that blocks: tests count warnings.
    watchdogMs: 60_000,
    ...options,
  });
  cleanup(() => server.close());
  await server.listen(socket.path);
  const raw = () => {
    const client = RawClient.connect(socket.path);
    cleanup(() => client.close());
    return client;
  };
  /** A raw client that has agreed on a version and everything that is offered. */
  const attached = async (capabilities: object = { max_msg_fds: 64, write_multiple: true }) => {
    const client = raw();
    await client.negotiate(capabilities);
    return client;
  };
  const connect = async (connectOptions: ConnectOptions = {}) => {
    const client = await VfioUserClient.connect(socket.path, connectOptions);
    cleanup(() => client.close());
    return client;
  };
  const idle = () => until(() => !server.isBusy);
  return { server, warnings, detached, raw, attached, connect, idle, path: socket.path };
}

/** An eventfd that is closed when the test ends. */
export function eventfd(initial = 0): number {
  const fd = eventfdCreate(initial);
  cleanup(() => closeFd(fd));
  return fd;
}

/** Guest memory with a descriptor, both gone when the test ends. */
export function guestMemory(size: number, seals?: number) {
  const fd = memfdCreate('guest', seals === undefined ? { size } : { size, seals });
  const mapping = mmap(fd, 0, size);
  cleanup(() => closeFd(fd));
  cleanup(() => mapping.unmap());
  return { fd, bytes: mapping.bytes };
}

/** Open descriptors of this process. */
export function openFds(): number {
  return readdirSync('/proc/self/fd').length;
}

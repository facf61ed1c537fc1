/**
 * The thread that serves: host, bus, drivers, devices and the message loop live here. It is told what to serve when it
 * starts, and to stop; it tells what happens. Only plain messages cross.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { deviceOf, isVfioError, messageOf } from '@vfio/core';
import { type CompatMode, VfioUserServer } from '@vfio/vfio-user';
import { installedDrivers } from '../drivers.js';
import { bindFunction, findFunction, openSession } from '../session.js';
import { createHost } from './host.js';
import type { FromServer, ServeJob, ToServer } from './messages.js';

const port = parentPort;
if (port === null) throw new Error('this module is the serving thread of `vfio serve`');
const tell = (message: FromServer): void => port.postMessage(message);

async function serve(job: ServeJob): Promise<() => Promise<void>> {
  const warn = (message: string, address?: string): void => tell({ type: 'warning', address, message });
  const drivers = await installedDrivers({ cwd: job.cwd, env: process.env, warn });
  const session = openSession(createHost(job.hostOptions), drivers, warn);
  const servers: VfioUserServer[] = [];
  const traceFd = job.traceFile === undefined ? undefined : openSync(job.traceFile, 'a', 0o600);
  const stop = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.close()));
    for (const fn of session.bus.functions()) if (session.bus.isBound(fn)) await session.bus.unbind(fn);
    await session.bus.close();
    if (traceFd !== undefined) closeSync(traceFd);
  };
  try {
    for (const { address, driver, socket } of job.targets) {
      const fn = findFunction(session.host, address);
      const bound = await bindFunction(session, fn, driver);
      const device = deviceOf(session.bus, fn);
      const server = new VfioUserServer(device, {
        ...(job.compat === undefined ? {} : { compat: job.compat as CompatMode }),
        ...(traceFd === undefined ? {} : { trace: (line: string) => void writeSync(traceFd, `${line}\n`) }),
        onWarning: (message) => warn(message, fn.address),
        onAttach: ({ peer }) => tell({ type: 'attached', address: fn.address, peer }),
        onDetach: (reason) => tell({ type: 'detached', address: fn.address, reason }),
      });
      await server.listen(socket);
      servers.push(server);
      tell({ type: 'listening', address: fn.address, driver: bound.name, ops: device.name });
    }
  } catch (error) {
    await stop();
    throw error;
  }
  return stop;
}

try {
  const stop = await serve(workerData as ServeJob);
  port.on('message', (message: ToServer) => {
    if (message.type !== 'stop') return;
    void stop().then(
      () => port.close(),
      (error: unknown) => fail(error),
    );
  });
  tell({ type: 'ready' });
} catch (error) {
  fail(error);
}

function fail(error: unknown): void {
  tell({
    type: 'failed',
    message: messageOf(error),
    code: isVfioError(error) ? error.code : undefined,
    stack: error instanceof Error ? error.stack : undefined,
  });
  port?.close();
}

/**
 * The thread that serves: host, bus, drivers, devices and the message loop live here. It is told what to serve when it
 * starts, and to stop; it tells what happens. Only plain messages cross.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { deviceOf } from '@vfio/core';
import { type CompatMode, ServiceLoop, VfioUserServer } from '@vfio/vfio-user';
import { driverVersion, installedDrivers } from '../drivers.js';
import { setUpHost } from '../host-setup.js';
import { bindFunction, findFunction, openSession } from '../session.js';
import { ThreadCalls } from './control/thread-calls.js';
import { createHost } from './host.js';
import type { FromServer, ServeJob, ToServer } from './messages.js';
import type { Served } from './methods/method.js';
import { plainError } from './plain-error.js';
import { TraceFile } from './trace-file.js';

const port = parentPort;
if (port === null) throw new Error('this module is the serving thread of `vfio serve`');
const tell = (message: FromServer): void => port.postMessage(message);

interface Serving {
  readonly calls: ThreadCalls;
  stop(): Promise<void>;
}

/** @param over called when no client can come any more: an inherited connection was all there was */
async function serve(job: ServeJob, over: () => void): Promise<Serving> {
  const warn = (message: string, address: string | null = null): void => tell({ type: 'warning', address, message });
  const trace = job.traceFile === undefined ? undefined : new TraceFile(job.traceFile, warn);
  const drivers = await installedDrivers({ cwd: job.cwd, script: job.script, env: process.env, warn });
  const host = createHost(job.hostOptions);
  const session = openSession(host, drivers, warn);
  const loop = new ServiceLoop({ slowUs: 1000, pulse: job.pulse });
  const servers: VfioUserServer[] = [];
  const served = new Map<string, Served>();
  const calls = new ThreadCalls(served, tell);
  const closing = new AbortController();
  const stop = async (): Promise<void> => {
    await calls.end();
    closing.abort();
    await Promise.all(servers.map((server) => server.close()));
    loop.close();
    await session.bus.close();
    trace?.close();
  };
  try {
    await setUpHost(session, job.setup);
    for (const { address, driver, socket } of job.targets) {
      const fn = findFunction(session.host, address);
      const bound = await bindFunction(session, fn, driver);
      const device = deviceOf(session.bus, fn);
      const server = new VfioUserServer(device, {
        loop,
        ...(job.compat === undefined ? {} : { compat: job.compat as CompatMode }),
        ...(trace === undefined ? {} : { trace: (line: string) => trace.write(line) }),
        // Else it would wait for Node's turn, which comes late while a guest polls.
        deferred: host.deferred,
        onWarning: (message) => warn(message, address),
        onAttach: ({ peer, pid = null }) => tell({ type: 'attached', address, peer, pid }),
        onDetach: (reason) => {
          tell({ type: 'detached', address, reason });
          if (!server.isListening) over();
        },
      });
      await server.listen(socket);
      servers.push(server);
      served.set(fn.address, {
        address: fn.address,
        fn,
        driver: bound,
        driverVersion: driverVersion(drivers, bound.name),
        device,
        server,
        loop,
        session,
        closing: closing.signal,
        warn: (message) => warn(message, fn.address),
      });
      const who = { address, driver: bound.name, ops: device.name };
      if ('incoming' in socket) tell({ type: 'waiting', ...who, incoming: socket.incoming.path });
      else tell({ type: 'listening', ...who, socket: 'path' in socket ? socket.path : null });
    }
  } catch (error) {
    await stop();
    throw error;
  }
  return { calls, stop };
}

let isEnding = false;
const end = (): void => {
  if (isEnding) return;
  isEnding = true;
  void serving.then(({ stop }) => stop()).then(() => port.close(), fail);
};
const serving = serve(workerData as ServeJob, end);
try {
  const { calls } = await serving;
  port.on('message', (message: ToServer) => {
    if (message.type === 'stop') end();
    else calls.onMessage(message);
  });
  tell({ type: 'ready' });
} catch (error) {
  fail(error);
}

/** Tells the command, and ends this thread whatever else would keep it. */
function fail(error: unknown): void {
  tell({ type: 'failed', ...plainError(error) });
  process.exit(1);
}

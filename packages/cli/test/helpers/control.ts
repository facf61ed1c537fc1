import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { deviceOf } from '@vfio/core';
import { createDemoHost } from '@vfio/emulated';
import { ServiceLoop, VfioUserServer } from '@vfio/vfio-user';
import { onTestFinished } from 'vitest';
import { installedDrivers } from '../../src/drivers.js';
import { CallsToThread } from '../../src/serve/control/calls-to-thread.js';
import { ControlServer } from '../../src/serve/control/server.js';
import { ThreadCalls } from '../../src/serve/control/thread-calls.js';
import { METHODS } from '../../src/serve/methods/index.js';
import type { Served } from '../../src/serve/methods/method.js';
import { bindFunction, findFunction, openSession } from '../../src/session.js';
import { folder, PROJECT } from './run.js';

/** What `vfio serve` is made of, with the two threads in this one: for tests that look at both ends. */
export async function controlled(address: string) {
  const at = mkdtempSync(join(folder, 'h-'));
  const session = openSession(
    createDemoHost(),
    await installedDrivers({
      cwd: PROJECT,
      script: undefined,
      env: { VFIO_CACHE: join(folder, 'cache') },
      warn: () => {},
    }),
    () => {},
  );
  const fn = findFunction(session.host, address);
  const driver = await bindFunction(session, fn, undefined);
  const device = deviceOf(session.bus, fn);
  const loop = new ServiceLoop();
  const server = new VfioUserServer(device, { loop });
  const socket = join(at, 'device');
  await server.listen(socket);
  const closing = new AbortController();
  const served: Served = {
    address: fn.address,
    fn,
    driver,
    driverVersion: '1.2.3',
    device,
    server,
    loop,
    session,
    closing: closing.signal,
    warn: () => {},
  };
  // As between threads: what is posted arrives later, and is a copy.
  const copy = <T>(message: T, deliver: (message: T) => void): void => {
    const posted = structuredClone(message);
    setImmediate(() => deliver(posted));
  };
  const calls = new CallsToThread((message) => copy(message, (posted) => thread.onMessage(posted)));
  const thread = new ThreadCalls(new Map([[fn.address, served]]), (message) =>
    copy(message, (posted) => calls.onAnswer(posted)),
  );
  const warnings: string[] = [];
  const control = await ControlServer.listen(join(at, 'control'), {
    version: '1.2.3',
    methods: Object.keys(METHODS),
    functions: new Map([[fn.address, calls]]),
    warn: (message) => warnings.push(message),
  });
  onTestFinished(async () => {
    control.close();
    await thread.end();
    closing.abort();
    await server.close();
    loop.close();
    await session.bus.unbind(fn);
    await session.bus.close();
  });
  return { control, thread, calls, served, socket, warnings, path: control.path };
}

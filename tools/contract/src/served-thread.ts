/** Entry of a worker thread that serves the device with all abilities; see `thread.ts`. */
import { parentPort, workerData } from 'node:worker_threads';
import { VfioUserServer } from '@vfio/vfio-user';
import { bound, sharedMemory } from './subjects.js';
import { wholeDriver, wholeFunction } from './whole-device.js';

const { host, fn } = wholeFunction({ memory: sharedMemory });
const server = new VfioUserServer(await bound(host, fn, wholeDriver()), {
  onDetach: () => parentPort?.postMessage('detached'),
});
await server.listen((workerData as { path: string }).path);
parentPort?.once('message', () => void server.close().then(() => parentPort?.close()));
parentPort?.postMessage('ready');

/** Entry of a worker thread that serves one device; see `thread.ts`. */
import { parentPort, workerData } from 'node:worker_threads';
import type { VfioDeviceProvider } from '@vfio/core';
import { Edu } from '@vfio/emulated';
import { VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY } from '@vfio/uapi';
import { VfioUserServer } from '../../src/index.js';
import { MemfdMemory, makeDevice } from './devices.js';
import { FakeDevice } from './fake-device.js';
import { SCRIPT } from './script.js';
import type { ThreadJob } from './thread.js';
import { migratable } from './toy-migration.js';

const job = workerData as ThreadJob;

const DEVICES: Readonly<Record<ThreadJob['device'], () => Promise<VfioDeviceProvider>>> = {
  /** An edu that can be reset, with 16 KiB of memory behind BAR 2. */
  async edu() {
    const model = (ctx: ConstructorParameters<typeof Edu>[0]) => {
      const edu = new Edu(ctx, { express: true });
      ctx.bar(2, { size: 0x4000, memory: true });
      return edu;
    };
    return (await makeDevice(model, {}, { memory: new MemfdMemory() })).device;
  },
  async migratable() {
    const { toy, device } = await migratable(VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY);
    toy.state = Uint8Array.from({ length: 20_000 }, (_, at) => (at * 31) & 0xff);
    return device;
  },
  async scripted() {
    return new FakeDevice({
      read(_region, offset, data) {
        if (offset === SCRIPT.CLOSE) void server.close();
        if (offset === SCRIPT.STALL) {
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, SCRIPT.STALL_MS);
        }
        return data.length;
      },
    });
  },
};

const server = new VfioUserServer(await DEVICES[job.device](), { onWarning: () => {}, ...job.options });
await server.listen(job.path);
parentPort?.once('message', () => void server.close().then(() => parentPort?.close()));
parentPort?.postMessage('ready');

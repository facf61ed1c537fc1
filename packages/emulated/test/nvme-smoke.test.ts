import { describe, expect, test } from 'vitest';
import { NvmeController } from '../src/index.js';
import { MemorySpace } from './helpers/memory-space.js';
import { NvmeDriver, pattern } from './helpers/nvme-driver.js';
import { manualHost, setMaster } from './helpers/setup.js';

describe.each([false, true])('memory reached by messages: %s', (remote) => {
  test('identify, create queues, write, read back, flush, shut down', async () => {
    const { host, deferred } = manualHost();
    host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
    const fn = host.add({ address: '0000:01:00.0', model: (ctx) => new NvmeController(ctx) });
    setMaster(fn, true);
    const memory = new MemorySpace(0x1000000, { remote });
    fn.attachDma(memory);
    const driver = new NvmeDriver(fn, memory, deferred);
    await driver.start();
    const { data, completion } = await driver.identify(1);
    expect(completion).toMatchObject({ status: 0 });
    expect(Buffer.from(data.subarray(24, 42)).toString()).toBe('VFIO emulated NVMe');
    const bytes = pattern(300 * 1024, 7);
    expect(await driver.write(5, bytes)).toMatchObject({ status: 0, sqHead: 1, sqId: 1 });
    const back = await driver.read(5, bytes.length);
    expect(back.completion.status).toBe(0);
    expect(Buffer.compare(back.data, bytes)).toBe(0);
    expect(await driver.flush()).toMatchObject({ status: 0 });
    await driver.shutDown();
    expect(fn.model.isDirty).toBe(false);
  });
});

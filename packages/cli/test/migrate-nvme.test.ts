import { randomBytes } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { callbackTrigger, type VfioDeviceClient } from '@vfio/core';
import { closeFd, memfdCreate, mmap } from '@vfio/native';
import { VfioUserClient } from '@vfio/vfio-user';
import { expect, onTestFinished, test } from 'vitest';
import { InterruptLatch } from '../src/demo/interrupt-latch.js';
import { NvmeProgram } from '../src/demo/nvme-program.js';
import { command, Serving } from './helpers/command.js';
import { folder } from './helpers/run.js';

const PF = '0000:06:00.0';
const SET_UP = ['--driver-override', `${PF}=nvme`, '--sriov-numvfs', `${PF}=1`];
const IOVA = 0x100000;
const MEMORY = 1 << 20;

test('a drive moves between two servers that have one disk, its program’s queues and data with it', async () => {
  const at = mkdtempSync(join(folder, 'n-'));
  // One memory, as two VMMs on one host have it.
  const fd = memfdCreate('guest', { size: MEMORY });
  onTestFinished(() => closeFd(fd));
  const memory = mmap(fd, 0, MEMORY).bytes;
  const latch = new InterruptLatch();
  const side = async (name: string) => {
    const [socket, control] = [join(at, name), join(at, `${name}.control`)];
    const disk = ['--nvme-file', join(at, 'disk'), '--nvme-size', '64M'];
    const server = new Serving(['06:00.1', ...SET_UP, ...disk, '--socket-path', socket, '--control-path', control]);
    await server.next('ready');
    const device = await VfioUserClient.connect(socket);
    onTestFinished(() => device.close());
    await device.dmaMap({
      iova: BigInt(IOVA),
      size: BigInt(MEMORY),
      readable: true,
      writable: true,
      memory: { bytes: memory, fd, fdOffset: 0 },
    });
    await device.write(7, 4, Uint8Array.of(6, 0));
    const triggers = [null, callbackTrigger(latch.signal)];
    await device.setIrqs({ flags: 0x24, index: 2, start: 0, count: 2, triggers });
    return { server, control, device };
  };
  const a = await side('a');
  const b = await side('b');

  let now = a;
  const device = {
    read: (...args: Parameters<VfioDeviceClient['read']>) => now.device.read(...args),
    write: (...args: Parameters<VfioDeviceClient['write']>) => now.device.write(...args),
  } as VfioDeviceClient;
  const program = new NvmeProgram({ device, memory, iova: IOVA, waitInterrupt: () => latch.wait() });
  await program.start();
  const data = randomBytes(64 * 1024);
  await program.write(0, data);
  await program.flush();

  const { code, err, out } = await command(['migrate', '--from', a.control, '--to', b.control, '--json']);
  expect({ code, err }).toEqual({ code: 0, err: '' });
  expect(JSON.parse(out)).toMatchObject({ outcome: 'moved', to: { driver: 'nvme_vfio_pci' }, sharedBytes: MEMORY });
  await expect(a.device.read(0, 0, new Uint8Array(4))).rejects.toMatchObject({ errno: 'ENODEV' });

  // The queues are in memory: the controller goes on with them where it stood, now at the other server.
  now = b;
  expect(await a.server.end()).toBe(0);
  expect(Buffer.from(await program.read(0, data.length)).equals(data)).toBe(true);
  await program.write(1 << 20, data.subarray(4096, 8192));
  await program.flush();
  expect(Buffer.from(await program.read(1 << 20, 4096)).equals(data.subarray(4096, 8192))).toBe(true);
  expect(await b.server.end()).toBe(0);
});

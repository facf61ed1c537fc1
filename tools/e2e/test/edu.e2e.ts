import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DeviceServer } from '../src/device-server.js';
import type { Guest } from '../src/guest.js';
import { FdStrippingRelay } from '../src/relay.js';
import { driveEdu, giveToVfio } from './edu-checks.js';
import { checksum, complaints, loadNvme } from './nvme-checks.js';
import { boot, serve, showLogsOfFailures } from './support.js';

showLogsOfFailures();

const EDU = { address: '0000:00:02.0' } as const;
const DIRECT = '0000:00:06.0';
const RELAYED = '0000:00:07.0';
const NVME = '0000:00:05.0';

/** Messages of a server's trace by direction and command. */
const messages = (server: DeviceServer, pattern: RegExp) => server.trace().filter((line) => pattern.test(line));

describe('a guest that shares its memory', () => {
  let direct: DeviceServer;
  let behind: DeviceServer;
  let relay: FdStrippingRelay;
  let guest: Guest;

  beforeAll(async () => {
    direct = await serve({ ...EDU, name: 'edu', trace: true });
    behind = await serve({ ...EDU, name: 'edu-relayed', trace: true });
    const socket = `${behind.socket}-relay`;
    relay = await FdStrippingRelay.listen(socket, behind.socket);
    guest = await boot({
      name: 'edu',
      iommu: true,
      devices: [direct.device({ addr: '6.0' }), behind.device({ addr: '7.0' }, socket)],
    });
    await giveToVfio(guest, DIRECT);
    await giveToVfio(guest, RELAYED);
  });
  afterAll(async () => {
    await guest?.kill();
    await relay?.close();
    await direct?.stop();
    await behind?.stop();
  });

  test.each(['msi', 'intx'])(
    'drives registers, DMA and interrupts (%s), and memory moves without messages',
    async (irq) => {
      await driveEdu(guest, `vfio ${DIRECT} ${irq}`);
      expect(messages(direct, / DMA_(READ|WRITE) /)).toEqual([]);
      expect(direct.warnings).toEqual([]);
    },
  );

  test('whose descriptors are dropped on the way: registers and DMA by messages work, interrupts are off and the log says so', async () => {
    await driveEdu(guest, `vfio ${RELAYED} none`);
    expect(messages(behind, /DMA_MAP .* fds/)).toEqual([]);
    expect(messages(behind, /> \S+ DMA_READ reply /).length).toBeGreaterThan(0);
    expect(messages(behind, /> \S+ DMA_WRITE reply /).length).toBeGreaterThan(0);
    expect(behind.warnings).toContainEqual(expect.stringContaining('interrupts are off'));
  });
});

describe('a guest that keeps its memory to itself', () => {
  let server: DeviceServer;
  let nvme: DeviceServer;
  let guest: Guest;

  beforeAll(async () => {
    server = await serve({ ...EDU, name: 'edu-private', trace: true });
    nvme = await serve({ address: '0000:01:00.0', name: 'nvme-private', trace: true });
    guest = await boot({
      name: 'edu-private',
      memory: 'private',
      devices: [nvme.device({ addr: '5.0' }), server.device({ addr: '6.0' })],
    });
  });
  afterAll(async () => {
    await guest?.kill();
    await server?.stop();
    await nvme?.stop();
  });

  test('drives registers, DMA and interrupts, and memory moves by messages', async () => {
    await guest.ok('modprobe uio_pci_generic && echo 1234 11e8 >/sys/bus/pci/drivers/uio_pci_generic/new_id');
    await driveEdu(guest, `uio ${DIRECT} intx`);
    expect(messages(server, /DMA_MAP .* fds/)).toEqual([]);
    expect(messages(server, /> \S+ DMA_READ reply /).length).toBeGreaterThan(0);
    expect(messages(server, /> \S+ DMA_WRITE reply /).length).toBeGreaterThan(0);
    expect(server.warnings).toEqual([]);
  });

  test('has a disk all the same: queues and data move by messages', async () => {
    await loadNvme(guest, NVME);
    await guest.ok('dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null');
    await guest.ok('dd if=/tmp/data of=/dev/nvme0n1 bs=1M oflag=direct conv=fsync', { seconds: 120 });
    expect(await checksum(guest, 8)).toBe(await guest.ok('sha256sum </tmp/data'));
    expect(await complaints(guest, NVME)).toBe('');
    expect(messages(nvme, /DMA_MAP .* fds/)).toEqual([]);
    expect(nvme.warnings).toEqual([]);
  });
});

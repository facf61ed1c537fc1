/** A real device at work through the client: an NVMe controller behind the generic driver, driven as a small driver does. */
import { callbackTrigger } from '@vfio/core';
import { NvmeController } from '@vfio/emulated';
import { VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_MSIX_IRQ_INDEX } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { VfioUserClient } from '../src/index.js';
import { enable, le, read32 } from './helpers/edu-program.js';
import { generic } from './helpers/generic.js';
import { until } from './helpers/raw-client.js';
import { serve } from './helpers/serve.js';

const REG = { CAP: 0x00, CC: 0x14, CSTS: 0x1c, AQA: 0x24, ASQ: 0x28, ACQ: 0x30, DOORBELLS: 0x1000 } as const;
const PAGE = 4096;
const IOVA = 0x200000;
const ENTRIES = 8;
/** What each page of the shared memory is for. */
const AT = { ADMIN_SQ: 0, ADMIN_CQ: 1, IO_SQ: 2, IO_CQ: 3, DATA: 4, PAGES: 16 } as const;

/** Queues in memory that the client gave; completions are told by MSI-X, vector 0 admin and 1 I/O. */
class Driver {
  readonly #client: VfioUserClient;
  readonly #memory: Uint8Array;
  readonly #tails = [0, 0];
  readonly interrupts = [0, 0];
  #commandId = 0;

  constructor(client: VfioUserClient, memory: Uint8Array) {
    this.#client = client;
    this.#memory = memory;
  }

  async start(): Promise<void> {
    const client = this.#client;
    await enable(client);
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    const triggers = this.interrupts.map((_, vector) => callbackTrigger(() => void this.interrupts[vector]!++));
    await client.setIrqs({ flags, index: VFIO_PCI_MSIX_IRQ_INDEX, start: 0, count: 2, triggers });
    await client.write(0, REG.AQA, le(((ENTRIES - 1) << 16) | (ENTRIES - 1), 4));
    await client.write(0, REG.ASQ, le(IOVA + AT.ADMIN_SQ * PAGE, 8));
    await client.write(0, REG.ACQ, le(IOVA + AT.ADMIN_CQ * PAGE, 8));
    await client.write(0, REG.CC, le((4 << 20) | (6 << 16) | 1, 4));
    while (((await read32(client, 0, REG.CSTS)) & 1) === 0);
    // I/O completion queue with interrupt vector 1, then its submission queue.
    expect(await this.submit(0, 0x05, AT.IO_CQ, [((ENTRIES - 1) << 16) | 1, (1 << 16) | 3])).toBe(0);
    expect(await this.submit(0, 0x01, AT.IO_SQ, [((ENTRIES - 1) << 16) | 1, (1 << 16) | 1])).toBe(0);
  }

  data(length: number): Uint8Array {
    return this.#memory.subarray(AT.DATA * PAGE, AT.DATA * PAGE + length);
  }

  /** One command on queue 0 or 1, its completion waited for by interrupt; the status. */
  async submit(queue: 0 | 1, opcode: number, page: number, dwords: readonly number[], namespace = 0): Promise<number> {
    const slot = this.#tails[queue]!;
    const view = new DataView(this.#memory.buffer, this.#memory.byteOffset);
    const sq = (queue === 0 ? AT.ADMIN_SQ : AT.IO_SQ) * PAGE + (slot % ENTRIES) * 64;
    const cq = (queue === 0 ? AT.ADMIN_CQ : AT.IO_CQ) * PAGE + (slot % ENTRIES) * 16;
    this.#memory.fill(0, sq, sq + 64);
    view.setUint32(sq, opcode | (++this.#commandId << 16), true);
    view.setUint32(sq + 4, namespace, true);
    view.setUint32(sq + 24, IOVA + page * PAGE, true);
    view.setUint32(sq + 32, IOVA + (page + 1) * PAGE, true);
    for (const [at, value] of dwords.entries()) view.setUint32(sq + 40 + 4 * at, value, true);
    const before = this.interrupts[queue]!;
    this.#tails[queue] = slot + 1;
    // Doorbells are posted, as a guest's are.
    const ring = (register: number, value: number) =>
      this.#client.post({ region: 0, offset: REG.DOORBELLS + 4 * register, data: le(value % ENTRIES, 4) });
    ring(2 * queue, slot + 1);
    await until(() => this.interrupts[queue]! > before);
    expect(view.getUint16(cq + 12, true)).toBe(this.#commandId);
    expect(view.getUint16(cq + 14, true) & 1).toBe(Math.floor(slot / ENTRIES) % 2 === 0 ? 1 : 0);
    ring(2 * queue + 1, slot + 1);
    return view.getUint16(cq + 14, true) >> 1;
  }
}

describe.each([
  ['mapped by its descriptor', false, true],
  ['reached by messages on the second socket', true, true],
  ['reached by messages on the one socket', true, false],
])('with memory %s', (_name, messagesOnly, twinSocket) => {
  test('it identifies itself, and keeps what is written to it', async () => {
    const { device } = await generic((ctx) => new NvmeController(ctx, { model: 'over a socket' }));
    const { connect, warnings, idle } = await serve(device);
    const client = await connect({ twinSocket });
    const { bytes } = await client.dmaAlloc({ iova: BigInt(IOVA), size: AT.PAGES * PAGE, messagesOnly });
    const driver = new Driver(client, bytes);
    await driver.start();
    expect(await driver.submit(0, 0x06, AT.DATA, [1])).toBe(0);
    expect(new TextDecoder().decode(driver.data(64).subarray(24, 64)).trim()).toBe('over a socket');
    // More commands than the queues have entries: the phase turns.
    for (let round = 0; round < 10; round++) {
      const pattern = Uint8Array.from({ length: 2 * PAGE }, (_, at) => (at * 7 + round) & 0xff);
      driver.data(2 * PAGE).set(pattern);
      expect(await driver.submit(1, 0x01, AT.DATA, [round * 16, 0, 15], 1)).toBe(0);
      driver.data(2 * PAGE).fill(0);
      expect(await driver.submit(1, 0x02, AT.DATA, [round * 16, 0, 15], 1)).toBe(0);
      expect(driver.data(2 * PAGE)).toEqual(pattern);
    }
    // A block past the end is the device's own error, not the connection's.
    expect((await driver.submit(1, 0x02, AT.DATA, [0xffffffff, 0, 0], 1)) & 0x7ff).toBe(0x80);
    expect(warnings).toEqual([]);
    await client.close();
    await idle();
  });
});

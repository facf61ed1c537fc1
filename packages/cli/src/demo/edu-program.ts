import { errnoError } from '@vfio/core';
import { type ProgramContext, Registers } from './registers.js';

/** Registers of QEMU's educational device (QEMU docs/specs/edu). */
const IDENTIFICATION = 0x00;
const LIVENESS = 0x04;
const FACTORIAL = 0x08;
const STATUS = 0x20;
const INTERRUPT_STATUS = 0x24;
const INTERRUPT_ACKNOWLEDGE = 0x64;
const DMA_SOURCE = 0x80;
const DMA_DESTINATION = 0x88;
const DMA_COUNT = 0x90;
const DMA_COMMAND = 0x98;
const BUFFER = 0x40000;
const START = 1;
const TO_MEMORY = 2;
const RAISE = 4;
const RAISE_AFTER_FACTORIAL = 0x80;

/** What the program saw. */
export interface EduReport {
  readonly identification: number;
  readonly liveness: boolean;
  readonly factorialOf10: number;
  readonly interrupts: number;
  /** The bytes went into the device's buffer and came back elsewhere in memory, unchanged. */
  readonly dmaRoundTrip: boolean;
}

/** Drives every part of the device once: registers, a factorial that ends with an interrupt, DMA there and back. */
export async function runEdu(ctx: ProgramContext): Promise<EduReport> {
  const bar = new Registers(ctx.device, 0);
  let interrupts = 0;
  const interrupt = async (): Promise<void> => {
    await ctx.waitInterrupt();
    const status = await bar.read32(INTERRUPT_STATUS);
    if (status === 0)
      throw errnoError('EIO', 'an interrupt came, and the device says that it raised none', { op: 'edu' });
    await bar.write32(INTERRUPT_ACKNOWLEDGE, status);
    interrupts++;
  };

  const identification = await bar.read32(IDENTIFICATION);
  await bar.write32(LIVENESS, 0x12345678);
  const liveness = (await bar.read32(LIVENESS)) === ~0x12345678 >>> 0;
  await bar.write32(STATUS, RAISE_AFTER_FACTORIAL);
  await bar.write32(FACTORIAL, 10);
  await interrupt();
  const factorialOf10 = await bar.read32(FACTORIAL);

  const length = 4096;
  const sent = ctx.memory.subarray(0, length);
  const received = ctx.memory.subarray(length, 2 * length);
  for (let n = 0; n < length; n++) sent[n] = (n * 7 + 3) & 0xff;
  received.fill(0);
  await transfer(bar, ctx.iova, BUFFER, length, START | RAISE);
  await interrupt();
  await transfer(bar, BUFFER, ctx.iova + length, length, START | TO_MEMORY | RAISE);
  await interrupt();
  return {
    identification,
    liveness,
    factorialOf10,
    interrupts,
    dmaRoundTrip: sent.every((byte, n) => received[n] === byte),
  };
}

async function transfer(bar: Registers, from: number, to: number, length: number, command: number): Promise<void> {
  await bar.write64(DMA_SOURCE, from);
  await bar.write64(DMA_DESTINATION, to);
  await bar.write64(DMA_COUNT, length);
  await bar.write32(DMA_COMMAND, command);
}

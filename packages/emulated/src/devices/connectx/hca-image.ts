import { CompletionQueue, type CompletionQueueState } from './completion-queue.js';
import { EventQueue, type EventQueueState } from './event-queue.js';
import type { HcaFunction, Phase } from './hca.js';
import { MemoryKey, type MemoryKeyShape } from './memory-key.js';
import { QueuePair, type QueuePairState } from './queue-pair.js';
import { badImage } from './vhca-image.js';

/** What software has made of a function, as an image carries it. The pages it has lent are not part: the new owner lends its own. */
interface HcaImage {
  readonly phase: Phase;
  readonly issi: number;
  readonly driverVersion: string;
  readonly queueAddress: number;
  readonly nicInterface: number;
  readonly heldSlots: number;
  readonly capabilities: readonly string[];
  readonly uars: readonly number[];
  readonly protectionDomains: readonly number[];
  readonly memoryKeys: readonly MemoryKeyShape[];
  readonly eventQueues: readonly EventQueueState[];
  readonly completionQueues: readonly CompletionQueueState[];
  readonly queuePairs: readonly QueuePairState[];
}

const numbers = (entries: Iterable<[number, unknown]>): number[] =>
  [...entries].map(([number]) => number).sort((a, b) => a - b);

const byNumber = <T>(entries: Iterable<[number, T]>): T[] =>
  [...entries].sort(([a], [b]) => a - b).map(([, entry]) => entry);

export function writeResources(fn: HcaFunction, heldSlots: number): string {
  const image: HcaImage = {
    phase: fn.phase,
    issi: fn.issi,
    driverVersion: fn.driverVersion,
    queueAddress: fn.segment.queueAddress ?? 0,
    nicInterface: fn.segment.nicInterface,
    heldSlots,
    capabilities: fn.capabilities.save(),
    uars: numbers(fn.uars.entries()),
    protectionDomains: numbers(fn.protectionDomains.entries()),
    memoryKeys: byNumber(fn.memoryKeys.entries()).map(({ shape }) => shape),
    eventQueues: byNumber(fn.eventQueues.entries()).map((queue) => queue.save()),
    completionQueues: byNumber(fn.completionQueues.entries()).map((queue) => queue.save()),
    queuePairs: byNumber(fn.queuePairs.entries()).map((pair) => pair.save()),
  };
  return JSON.stringify(image);
}

/** Makes a function what an image says. Returns the command slots that wait. @throws CommandError where it is none. */
export function readResources(fn: HcaFunction, bytes: Uint8Array): number {
  let image: HcaImage;
  try {
    // The head's checksum has been looked at: this is what a function of this firmware wrote.
    image = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as HcaImage;
  } catch {
    throw badImage('its resources cannot be read');
  }
  fn.phase = image.phase;
  fn.issi = image.issi;
  fn.driverVersion = image.driverVersion;
  fn.segment.restore(image.queueAddress, image.nicInterface);
  fn.capabilities.load(image.capabilities);
  for (const number of image.uars) fn.uars.restore(number, true);
  for (const number of image.protectionDomains) fn.protectionDomains.restore(number, true);
  for (const shape of image.memoryKeys) fn.memoryKeys.restore(shape.key >>> 8, new MemoryKey(shape));
  for (const state of image.eventQueues)
    fn.eventQueues.restore(state.shape.number, EventQueue.restore(fn.dma, fn.ctx.irq, state));
  for (const state of image.completionQueues)
    fn.completionQueues.restore(
      state.shape.number,
      CompletionQueue.restore(fn.dma, fn.eventQueues.get(state.shape.eventQueue), state),
    );
  for (const state of image.queuePairs) fn.queuePairs.restore(state.shape.number, QueuePair.restore(fn, state));
  fn.pages.setPhase(image.phase === 'initialized' ? 'init' : image.phase === 'enabled' ? 'boot' : 'off');
  return image.heldSlots;
}

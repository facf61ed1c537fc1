import {
  PCI_CAP_ID_VPD,
  PCI_CFG_SPACE_SIZE,
  PCI_VPD_ADDR,
  PCI_VPD_ADDR_F,
  PCI_VPD_ADDR_MASK,
  PCI_VPD_DATA,
} from '@vfio/uapi';
import { type CapAccess, readByTable, writeByTable } from './access.js';
import { VPD_TABLE } from './permissions.js';
import type { ConfigState } from './state.js';

/** Addresses have 15 bits. */
const MAX_LENGTH = PCI_VPD_ADDR_MASK + 1;
/** Hardware that answers at once is not waited for; after so many polls the write goes on in the background. */
const SPIN_POLLS = 32;
/** One poll a millisecond: the 125 ms that the kernel gives a transfer. */
const SLEEP_POLLS = 125;

/** A resource tag with its length in 16 bits; other tags have it in their low three bits. */
const TAG_LARGE = 0x80;
const TAG_SMALL_LENGTH = 0x07;
const TAG_SMALL_NAME = 0x78;
const TAG_END = 0x78;

/** A transfer in steps: yields the number of polls so far whenever hardware is not ready, and is resumed to poll again. */
type Steps<T> = Generator<number, T, void>;

/** Polls until F has the wanted value; false when hardware took too long. */
function* waitFor(state: ConfigState, position: number, flag: number): Steps<boolean> {
  for (let polls = 0; polls < SPIN_POLLS + SLEEP_POLLS; polls++) {
    if ((state.hw.read(position + PCI_VPD_ADDR, 2) & PCI_VPD_ADDR_F) === flag) return true;
    yield polls;
  }
  return false;
}

/**
 * Reads up to `count` bytes from any address, fewer at `limit`; undefined when hardware took too long.
 */
function* readBytes(
  state: ConfigState,
  position: number,
  address: number,
  count: number,
  limit: number,
): Steps<Uint8Array | undefined> {
  const end = Math.min(address + count, limit);
  const bytes = new Uint8Array(Math.max(0, end - address));
  for (let at = address & ~3; at < end; at += 4) {
    state.hw.write(position + PCI_VPD_ADDR, 2, at);
    if (!(yield* waitFor(state, position, PCI_VPD_ADDR_F))) return undefined;
    const dword = state.hw.read(position + PCI_VPD_DATA, 4);
    for (let i = 0; i < 4; i++) {
      if (at + i >= address && at + i < end) bytes[at + i - address] = dword >> (8 * i);
    }
  }
  return bytes;
}

/**
 * Length by the resource tags: where the end tag stops, or the last tag that makes sense. 0 where there is none;
 * undefined when hardware took too long to give even the first.
 */
function* measure(state: ConfigState, position: number): Steps<number | undefined> {
  let at = 0;
  for (;;) {
    const tag = yield* readBytes(state, position, at, 3, MAX_LENGTH);
    if (tag === undefined) return at === 0 ? undefined : at;
    const first = tag[0];
    if (first === undefined) return at;
    // What erased or absent memory reads as.
    if (at === 0 && (first === 0x00 || first === 0xff)) return 0;
    const large = (first & TAG_LARGE) !== 0;
    const size = large ? 3 + ((tag[1] ?? 0) | ((tag[2] ?? 0) << 8)) : 1 + (first & TAG_SMALL_LENGTH);
    if (at + size > MAX_LENGTH) return at;
    at += size;
    if (!large && (first & TAG_SMALL_NAME) === TAG_END) return at;
  }
}

/** Carries out what the virtual address register asks for; true where hardware did it. */
function* transfer(state: ConfigState, start: number): Steps<boolean> {
  const position = state.vpdAt;
  if (position === 0 || position + PCI_VPD_DATA >= PCI_CFG_SPACE_SIZE) return false;
  state.vpdLength ??= yield* measure(state, position);
  const length = state.vpdLength;
  if (length === undefined || length === 0) return false;

  const request = state.word(start + PCI_VPD_ADDR);
  const address = request & PCI_VPD_ADDR_MASK;
  if ((request & PCI_VPD_ADDR_F) === 0) {
    const bytes = yield* readBytes(state, position, address, 4, length);
    if (bytes === undefined) return false;
    state.setDword(start + PCI_VPD_DATA, 0);
    state.vconfig.set(bytes, start + PCI_VPD_DATA);
  } else {
    if ((address & 3) !== 0 || address + 4 > length) return false;
    state.hw.write(position + PCI_VPD_DATA, 4, state.dword(start + PCI_VPD_DATA));
    state.hw.write(position + PCI_VPD_ADDR, 2, request);
    if (!(yield* waitFor(state, position, 0))) return false;
  }
  // F changes to the other value when the transfer is complete. Where it failed the user waits in vain and gives up.
  state.setWord(start + PCI_VPD_ADDR, request ^ PCI_VPD_ADDR_F);
  return true;
}

/** Runs a transfer to its end, in this call where hardware keeps up. */
function run(steps: Steps<boolean>): undefined | Promise<void> {
  for (;;) {
    const step = steps.next();
    if (step.done === true) return undefined;
    if (step.value >= SPIN_POLLS) return finish(steps);
  }
}

async function finish(steps: Steps<boolean>): Promise<void> {
  for (;;) {
    await new Promise<void>((resolve) => {
      setTimeout(resolve, 1);
    });
    if (steps.next().done === true) return;
  }
}

/**
 * Vital product data: the registers are virtual, and the write that reaches the flag does the transfer in hardware.
 * Hardware that is slow makes that write a promise.
 */
export const VITAL_PRODUCT_DATA: CapAccess = {
  read: (state, position, width, start) => readByTable(state, VPD_TABLE, position, width, start),
  write(state, position, width, start, value) {
    writeByTable(state, VPD_TABLE, position, width, start, value);
    const flagByte = PCI_VPD_ADDR + 1;
    const offset = position - start;
    if (offset > flagByte || offset + width <= flagByte) return undefined;
    if (!state.owns(PCI_CAP_ID_VPD, start + PCI_VPD_ADDR, 6)) return undefined;
    return run(transfer(state, start));
  },
};

import { CommandError, SYNDROME } from './command.js';
import { STATUS } from './constants.js';
import { crc32c } from './crc32c.js';
import { MEMORY_PAGE } from './device-memory.js';

/**
 * The image of a function's state, as SAVE_VHCA_STATE writes it: the firmware's own format, opaque to drivers. A head
 * (header, resources, engine registers, numbers of pages), then the pages. Little-endian.
 */
const HEADER = {
  MAGIC: 0x00,
  VERSION: 0x04,
  FLAGS: 0x06,
  SESSION: 0x08,
  INDEX: 0x0c,
  FIRMWARE: 0x10,
  MEMORY_PAGES: 0x14,
  RESOURCE_BYTES: 0x18,
  ENGINE_BYTES: 0x1c,
  PAGE_COUNT: 0x20,
  TOTAL: 0x24,
  HEAD_BYTES: 0x28,
  CHECKSUM: 0x3c,
  BYTES: 0x40,
} as const;

const MAGIC = 0x41434856;
const VERSION = 1;
const FLAG_INCREMENTAL = 1;

/** The smallest piece of an image that makes sense, and the largest that one command saves in chunks. */
export const CHUNK_BYTES = 0x800000;

/** What one image holds. */
export interface VhcaImage {
  readonly isIncremental: boolean;
  /** Images of one session are loaded in the order of their indexes, the first of which is not incremental. */
  readonly session: number;
  readonly index: number;
  readonly firmware: number;
  readonly memoryPages: number;
  /** Empty: unchanged. */
  readonly resources: Uint8Array;
  /** Empty: unchanged. */
  readonly engine: Uint8Array;
  readonly pages: readonly number[];
}

const padded = (bytes: number): number => Math.ceil(bytes / 8) * 8;

function headBytes(resources: number, engine: number, pages: number): number {
  return HEADER.BYTES + padded(resources) + padded(engine) + padded(4 * pages);
}

/** Bytes of an image. */
export function imageBytes(resources: number, engine: number, pages: number): number {
  return headBytes(resources, engine, pages) + pages * MEMORY_PAGE;
}

/** How many pages fit an image of `bytes` beside resources and registers; negative where not even these do. */
export function pagesThatFit(bytes: number, resources: number, engine: number): number {
  const room = bytes - headBytes(resources, engine, 0);
  if (room < 0) return -1;
  let pages = Math.floor(room / (MEMORY_PAGE + 4));
  while (pages > 0 && imageBytes(resources, engine, pages) > bytes) pages--;
  return pages;
}

/** The head; the pages come behind it. */
export function encodeHead(image: VhcaImage): Uint8Array {
  const { resources, engine, pages } = image;
  const head = new Uint8Array(headBytes(resources.length, engine.length, pages.length));
  const view = new DataView(head.buffer);
  view.setUint32(HEADER.MAGIC, MAGIC, true);
  view.setUint16(HEADER.VERSION, VERSION, true);
  view.setUint16(HEADER.FLAGS, image.isIncremental ? FLAG_INCREMENTAL : 0, true);
  view.setUint32(HEADER.SESSION, image.session, true);
  view.setUint32(HEADER.INDEX, image.index, true);
  view.setUint32(HEADER.FIRMWARE, image.firmware, true);
  view.setUint32(HEADER.MEMORY_PAGES, image.memoryPages, true);
  view.setUint32(HEADER.RESOURCE_BYTES, resources.length, true);
  view.setUint32(HEADER.ENGINE_BYTES, engine.length, true);
  view.setUint32(HEADER.PAGE_COUNT, pages.length, true);
  view.setUint32(HEADER.TOTAL, imageBytes(resources.length, engine.length, pages.length), true);
  view.setUint32(HEADER.HEAD_BYTES, head.length, true);
  head.set(resources, HEADER.BYTES);
  head.set(engine, HEADER.BYTES + padded(resources.length));
  const table = HEADER.BYTES + padded(resources.length) + padded(engine.length);
  for (const [i, page] of pages.entries()) view.setUint32(table + 4 * i, page, true);
  view.setUint32(HEADER.CHECKSUM, crc32c(head), true);
  return head;
}

/** How long the head of an image is that starts with these bytes. @throws CommandError where it is none. */
export function headLength(start: Uint8Array, size: number): number {
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  const length = view.getUint32(HEADER.HEAD_BYTES, true);
  if (view.getUint32(HEADER.MAGIC, true) !== MAGIC || view.getUint16(HEADER.VERSION, true) !== VERSION)
    throw badImage('no image, or of another version');
  if (view.getUint32(HEADER.TOTAL, true) !== size)
    throw badImage(`${view.getUint32(HEADER.TOTAL, true)} bytes, the command says ${size}`);
  if (length < HEADER.BYTES || length > size) throw badImage('its head is longer than it');
  return length;
}

export const HEADER_BYTES: number = HEADER.BYTES;

/** Takes a head apart. @throws CommandError where anything in it is wrong. */
export function decodeHead(head: Uint8Array): VhcaImage {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const checksum = view.getUint32(HEADER.CHECKSUM, true);
  const copy = head.slice();
  new DataView(copy.buffer).setUint32(HEADER.CHECKSUM, 0, true);
  if (crc32c(copy) !== checksum) throw badImage('its checksum is wrong');
  const resources = view.getUint32(HEADER.RESOURCE_BYTES, true);
  const engine = view.getUint32(HEADER.ENGINE_BYTES, true);
  const count = view.getUint32(HEADER.PAGE_COUNT, true);
  const memoryPages = view.getUint32(HEADER.MEMORY_PAGES, true);
  if (headBytes(resources, engine, count) !== head.length || count > memoryPages)
    throw badImage('its parts do not fit');
  const table = HEADER.BYTES + padded(resources) + padded(engine);
  const pages: number[] = [];
  for (let i = 0; i < count; i++) {
    const page = view.getUint32(table + 4 * i, true);
    if (page >= memoryPages || page <= (pages.at(-1) ?? -1)) throw badImage(`page ${page} is out of order`);
    pages.push(page);
  }
  return {
    isIncremental: (view.getUint16(HEADER.FLAGS, true) & FLAG_INCREMENTAL) !== 0,
    session: view.getUint32(HEADER.SESSION, true),
    index: view.getUint32(HEADER.INDEX, true),
    firmware: view.getUint32(HEADER.FIRMWARE, true),
    memoryPages,
    resources: head.slice(HEADER.BYTES, HEADER.BYTES + resources),
    engine: head.slice(HEADER.BYTES + padded(resources), HEADER.BYTES + padded(resources) + engine),
    pages,
  };
}

export function badImage(what: string): CommandError {
  return new CommandError(STATUS.BAD_PARAM, SYNDROME.BAD_IMAGE, `the image: ${what}`);
}

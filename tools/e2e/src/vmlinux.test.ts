import { expect, test } from 'vitest';
import { bzImagePayload } from './vmlinux.js';

/** A boot image with two setup sectors and this payload eight bytes into the protected-mode part. */
function bzImage(payload: string, change: (image: Buffer) => void = () => undefined): Buffer {
  const image = Buffer.alloc(3 * 512 + 8 + payload.length + 4);
  image.writeUInt8(2, 0x1f1);
  image.write('HdrS', 0x202, 'latin1');
  image.writeUInt16LE(0x20f, 0x206);
  image.writeUInt32LE(8, 0x248);
  image.writeUInt32LE(payload.length + 4, 0x24c);
  image.write(payload, 3 * 512 + 8, 'latin1');
  change(image);
  return image;
}

test('the payload is found behind the setup sectors, without the size that follows it', () => {
  expect(Buffer.from(bzImagePayload(bzImage('compressed'))!).toString()).toBe('compressed');
});

test('a setup size of 0 means 4 sectors', () => {
  const image = Buffer.concat([bzImage(''), Buffer.alloc(2048)]);
  image.writeUInt8(0, 0x1f1);
  image.writeUInt32LE(9, 0x24c);
  image.write('right', 5 * 512 + 8, 'latin1');
  expect(Buffer.from(bzImagePayload(image)!).toString()).toBe('right');
});

test('what is no boot image, is too old, or points outside itself has no payload', () => {
  expect(bzImagePayload(Buffer.alloc(100))).toBeUndefined();
  expect(bzImagePayload(bzImage('x', (image) => image.write('ELF!', 0x202)))).toBeUndefined();
  expect(bzImagePayload(bzImage('x', (image) => image.writeUInt16LE(0x207, 0x206)))).toBeUndefined();
  expect(bzImagePayload(bzImage('xxxxxxxx', (image) => image.writeUInt32LE(9, 0x248)))).toBeUndefined();
});

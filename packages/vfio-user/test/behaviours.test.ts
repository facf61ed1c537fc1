import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

/**
 * What an easy implementation would miss, by its number in our notes on the protocol. A test that proves one carries
 * `[vfio-user 7.N]` in its name, here or in the package whose business it is.
 */
const BEHAVIOURS: Readonly<Record<string, string>> = {
  '7.1': 'a stream gives descriptors with the last message that starts in a read: each message gets its own',
  '7.2': 'received descriptors are closed on exec, and closed on every way out',
  '7.3': 'messages come in pieces; long replies are sent whole, a reply header never in two pieces',
  '7.4': 'an impossible size is answered EINVAL and ends the connection',
  '7.5': 'a posted command is not answered, not even with an error, whatever the command is',
  '7.6': 'a reply has the id and command of its request; one that answers nothing ends the connection',
  '7.7': 'no reply is longer than argsz allows, and none carries a descriptor that there was no room for',
  '7.8': 'the VERSION reply is no longer than the request and has only keys that were offered',
  '7.9': 'DMA_MAP without a descriptor is normal: the memory is reached by messages',
  '7.10': 'the reply to DMA_UNMAP has 24 bytes, that to DMA_MAP none',
  '7.11':
    'memory is gone before the reply to DMA_UNMAP, also from views; cut memory costs the connection, not the process',
  '7.12': 'offset and size of a map are checked against pages and the file',
  '7.13': 'addresses are 64 bits, also where a range ends with the address space',
  '7.14': 'accesses of any size and alignment, config writes split by bytes under their masks',
  '7.15': 'a BAR answers the sizing probe',
  '7.16': 'the ROM BAR can be sized, and the ROM is read in one message',
  '7.17': 'INTx masks itself, is unmasked by message or resample eventfd, and fires again while the line is high',
  '7.18': 'MSI-X: vectors one by one, in chunks, with new eventfds; nothing raised in between is lost',
  '7.19': 'a full eventfd does not block',
  '7.20': 'DEVICE_RESET comes although it is not offered, and keeps eventfds',
  '7.21': 'a client that goes leaves no map and no eventfd; the next one waits for it, and is served then',
  '7.22': 'a stale socket file is replaced, a live one is not stolen; 107 bytes of path',
  '7.23': 'a reply comes before the client gives up, or never; what blocks is named',
  '7.24': 'message DMA only while the client awaits nothing; commands are carried out meanwhile',
  '7.25': 'a read behind a posted write sees it',
  '7.26': 'memory that is mapped is the same by messages',
  '7.27': 'a migration state is answered when it is reached; no writes to BARs while it is copied; short means the end',
  '7.28': 'GET_REGION_IO_FDS has none to give',
  '7.29': 'a file for each area that is mapped, sealed, with nothing else in it',
  '7.30': 'what a client can take is bounded, and sizes are checked before memory is taken for them',
  '7.31': '--socket-path, --fd, in the foreground, ended by SIGTERM',
  '7.32': 'the event loop, timers and other threads get their turn while messages flow',
};

/** Packages that prove some of them. */
const PACKAGES = ['vfio-user', 'native', 'emulated', 'cli'];

test('every behaviour has a test that carries its number, and no test carries a number that is none', () => {
  const root = join(import.meta.dirname, '../..');
  const found = new Set<string>();
  for (const name of PACKAGES) {
    const folder = join(root, name, 'test');
    for (const path of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
      if (!path.endsWith('.test.ts') || path === 'behaviours.test.ts') continue;
      const text = readFileSync(join(folder, path), 'utf8');
      for (const [, number] of text.matchAll(/\[vfio-user (7\.\d+)\]/g)) found.add(number as string);
    }
  }
  expect(Object.keys(BEHAVIOURS).filter((number) => !found.has(number))).toEqual([]);
  expect([...found].filter((number) => !Object.hasOwn(BEHAVIOURS, number))).toEqual([]);
});

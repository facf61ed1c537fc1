import { VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_NUM_IRQS } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { bareTarget } from '../src/config-space-bare.js';
import { type OpenedRecording, openRecording, openRecordingTwice } from '../src/config-space-device.js';
import { type ConfigSpaceRecording, OWN_VECTORS, readRecordings } from '../src/config-space-recording.js';
import { type ReplayTarget, replay } from '../src/config-space-replay.js';

const recordings = readRecordings();
/** What the replay itself is tested with, whatever is replayed. */
const own = readRecordings(OWN_VECTORS);

describe('virtual config space alone answers as the kernel did', () => {
  test.for(recordings)('$name', async (recording) => {
    expect(await replay(recording, bareTarget(recording))).toEqual([]);
  });
});

/** What a recording knows of info that follows from config space and resources; ROM and VGA follow from more. */
function compareInfo({ device }: OpenedRecording, recording: ConfigSpaceRecording): void {
  for (const [index, count] of recording.irqCounts) {
    expect([index, device.getIrqInfo(index).count]).toEqual([index, count]);
  }
  for (const [index, size] of recording.regionSizes) {
    if (index > VFIO_PCI_BAR5_REGION_INDEX && index !== VFIO_PCI_CONFIG_REGION_INDEX) continue;
    expect([index, device.getRegionInfo(index).size]).toEqual([index, size]);
  }
}

describe.each([
  { how: 'a device on a bus', open: openRecording },
  { how: 'a device whose base is another device', open: openRecordingTwice },
])('$how answers as the kernel did', ({ open }) => {
  test.for(recordings)('$name', async (recording) => {
    const opened = await open(recording);
    compareInfo(opened, recording);
    expect(await replay(recording, opened)).toEqual([]);
    await opened.device.close();
  });
});

describe('a replay notices', () => {
  const recording = own[0]!;
  const spoiled = (spoil: (target: ReplayTarget) => Partial<ReplayTarget>): ReplayTarget => {
    const target = bareTarget(recording);
    return { read: target.read, write: target.write, hardware: target.hardware, ...spoil(target) };
  };

  test('a byte that reads wrong', async () => {
    const target = spoiled(({ read }) => ({
      read(offset, data) {
        const done = read(offset, data);
        if (offset <= 0x3c && offset + data.length > 0x3c) data[0x3c - offset]! ^= 0x80;
        return done;
      },
    }));
    expect(await replay(recording, target)).not.toEqual([]);
  });

  test('a write that is lost, or one byte too far', async () => {
    expect(
      await replay(
        recording,
        spoiled(() => ({ write: (_, data) => data.length })),
      ),
    ).not.toEqual([]);
    const further = spoiled(({ write }) => ({ write: (offset, data) => write(offset ^ 1, data) }));
    expect(await replay(recording, further)).not.toEqual([]);
  });

  test('a wrong count', async () => {
    const target = spoiled(({ write }) => ({ write: async (offset, data) => (await write(offset, data)) - 1 }));
    expect(await replay(recording, target)).toHaveLength(recording.ops.filter(({ kind }) => kind === 'write').length);
  });

  test('hardware that is not as it was', async () => {
    const target = bareTarget(recording);
    target.hardware[0x3f]! ^= 1;
    const found = await replay(recording, target);
    expect(found[0]).toMatchObject({ op: -1, what: 'hardware after open' });
    expect(found.at(-1)).toMatchObject({ op: recording.ops.length, what: 'hardware at the end' });
  });
});

test('a recording of a virtual function would be opened as one', async () => {
  const recorded = own.find(({ openView }) => openView[0x3d] === 1)!;
  const openHardware = recorded.openHardware.slice();
  openHardware.fill(0xff, 0, 4);
  openHardware.fill(0, 4, 6);
  for (const target of [
    bareTarget({ ...recorded, openHardware }),
    await openRecording({ ...recorded, openHardware }),
    await openRecordingTwice({ ...recorded, openHardware }),
  ]) {
    const header = new Uint8Array(64);
    target.read(0, header);
    expect([...header.subarray(0, 4)]).toEqual([...recorded.openView.subarray(0, 4)]);
    expect(header[4]! & 2).toBe(2);
    expect(header[0x3d]).toBe(0);
  }
});

test('the recordings of this repository are 24 functions and 14,261 accesses', () => {
  expect(own).toHaveLength(24);
  expect(own.reduce((sum, { ops }) => sum + ops.length, 0)).toBe(14_261);
  for (const { irqCounts, regionSizes } of own) {
    expect(irqCounts.size).toBe(VFIO_PCI_NUM_IRQS);
    for (let index = 0; index <= VFIO_PCI_CONFIG_REGION_INDEX; index++) expect(regionSizes.has(index)).toBe(true);
  }
});

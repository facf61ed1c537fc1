import { fileURLToPath } from 'node:url';
import {
  VFIO_PCI_BAR0_REGION_INDEX,
  VFIO_PCI_BAR5_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_NUM_IRQS,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { bareTarget } from '../src/config-space-bare.js';
import { type OpenedRecording, openRecording, openRecordingTwice } from '../src/config-space-device.js';
import { type ConfigSpaceRecording, readRecordings } from '../src/config-space-recording.js';
import { type ReplayTarget, replay } from '../src/config-space-replay.js';

const recordings = readRecordings();

describe('virtual config space alone answers as the kernel did', () => {
  test.for(recordings)('$name', async (recording) => {
    expect(await replay(recording, bareTarget(recording))).toEqual([]);
  });
});

/** What the recordings know of info that follows from config space and resources. */
function compareInfo({ device }: OpenedRecording, recording: ConfigSpaceRecording): void {
  const irqs = Array.from({ length: VFIO_PCI_NUM_IRQS }, (_, index) => device.getIrqInfo(index).count);
  expect(irqs).toEqual(irqs.map((_, index) => recording.irqCounts.get(index)));
  for (let index = VFIO_PCI_BAR0_REGION_INDEX; index <= VFIO_PCI_BAR5_REGION_INDEX; index++) {
    expect(device.getRegionInfo(index).size).toBe(recording.regionSizes.get(index));
  }
  expect(device.getRegionInfo(VFIO_PCI_CONFIG_REGION_INDEX).size).toBe(
    recording.regionSizes.get(VFIO_PCI_CONFIG_REGION_INDEX),
  );
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
  const recording = recordings.find(({ ops }) => ops.length > 0)!;
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
  const recorded = recordings.find(({ openView }) => openView[0x3d] === 1)!;
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
  const own = readRecordings(fileURLToPath(new URL('../vectors', import.meta.url)));
  expect(own).toHaveLength(24);
  expect(own.reduce((sum, { ops }) => sum + ops.length, 0)).toBe(14_261);
});

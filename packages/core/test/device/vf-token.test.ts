import { VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_SET } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import {
  parseUuid,
  type VfioPciCoreDevice,
  vfioOpenByName,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
  vfioPciCoreSriovConfigure,
  vfioPciCoreUnregisterDevice,
} from '../../src/index.js';
import { FakeFunction, FakeHost } from './fake-function.js';
import { errnoOf, errnoOfAsync, plainOps, rig } from './helpers.js';

const UUID_A = '00112233-4455-6677-8899-aabbccddeeff';
const UUID_B = 'ffffffff-0000-4000-8000-000000000001';
const TOKEN = 0;

/** A PF that can have VFs, and what makes them. */
async function sriov(pm = false) {
  const host = new FakeHost();
  const pf = new FakeFunction(host, { address: '0000:01:00.0', pm });
  host.list.push(pf);
  const vfs: FakeFunction[] = [];
  const state = { fail: undefined as Error | undefined };
  const numVfs = {
    totalVfs: 4,
    numVfs: 0,
    driversAutoprobe: true,
    enable(count: number) {
      if (state.fail !== undefined) throw state.fail;
      numVfs.numVfs = count;
      for (let i = 0; i < count; i++) vfs.push(new FakeFunction(host, { address: `0000:01:00.${i + 1}`, physfn: pf }));
    },
    async disable() {
      numVfs.numVfs = 0;
      vfs.length = 0;
    },
  };
  pf.sriov = numVfs;
  const dev = vfioPciCoreAllocDevice(pf, plainOps);
  await vfioPciCoreRegisterDevice(dev);
  const vfDevice = async (index: number): Promise<VfioPciCoreDevice> => {
    const vf = vfioPciCoreAllocDevice(vfs[index]!, plainOps);
    await vfioPciCoreRegisterDevice(vf);
    return vf;
  };
  return { host, pf, dev, vfs, vfDevice, state, numVfs };
}

describe('UUIDs', () => {
  test('are read into 16 bytes in the order of their text', () => {
    expect([...parseUuid(UUID_A)]).toEqual([
      0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
    ]);
    expect(parseUuid(UUID_A.toUpperCase())).toEqual(parseUuid(UUID_A));
  });

  test.each([
    '',
    UUID_A.slice(1),
    `${UUID_A}0`,
    UUID_A.replaceAll('-', ''),
    `{${UUID_A}}`,
    UUID_A.replace('0', 'g'),
    ` ${UUID_A}`,
  ])('of "%s" are EINVAL', (text) => {
    expect(errnoOf(() => parseUuid(text))).toBe('EINVAL');
  });
});

describe('a VF', () => {
  test('whose VFs were made by core needs the token of its PF', async () => {
    const { dev, vfDevice } = await sriov();
    await vfioPciCoreSriovConfigure(dev, 2);
    await (await dev.open({ vfToken: UUID_A })).close();
    const vf = await vfDevice(0);
    expect(await errnoOfAsync(() => vf.open())).toBe('EACCES');
    expect(await errnoOfAsync(() => vf.open({ vfToken: UUID_B }))).toBe('EACCES');
    const device = await vf.open({ vfToken: UUID_A });
    expect(await errnoOfAsync(() => vf.open()), 'each opening').toBe('EACCES');
    await device.close();
    await (await vf.open({ vfToken: parseUuid(UUID_A) })).close();
  });

  test('whose PF is not ours takes none', async () => {
    const host = new FakeHost();
    const pf = new FakeFunction(host, { address: '0000:01:00.0' });
    const vf = vfioPciCoreAllocDevice(new FakeFunction(host, { address: '0000:01:00.1', physfn: pf }), plainOps);
    await vfioPciCoreRegisterDevice(vf);
    expect(await errnoOfAsync(() => vf.open({ vfToken: UUID_A }))).toBe('EINVAL');
    await (await vf.open()).close();
  });

  test('that was there before core made any takes none, though its PF is ours', async () => {
    const { pf, host } = await sriov();
    const vf = vfioPciCoreAllocDevice(new FakeFunction(host, { address: '0000:01:00.7', physfn: pf }), plainOps);
    await vfioPciCoreRegisterDevice(vf);
    expect(vf.vf.pf).toBeUndefined();
    await (await vf.open()).close();
  });

  test('still needs the token after the PF was closed', async () => {
    const { dev, vfDevice } = await sriov();
    const pfDevice = await dev.open({ vfToken: UUID_A });
    await vfioPciCoreSriovConfigure(dev, 1);
    const vf = await vfDevice(0);
    await pfDevice.close();
    expect(await errnoOfAsync(() => vf.open())).toBe('EACCES');
    await (await vf.open({ vfToken: UUID_A })).close();
  });
});

describe('a PF', () => {
  test('takes any token while no VF is in use, and needs the right one while one is', async () => {
    const { dev, vfDevice } = await sriov();
    await (await dev.open()).close();
    await (await dev.open({ vfToken: UUID_A })).close();
    await vfioPciCoreSriovConfigure(dev, 1);
    await (await dev.open({ vfToken: UUID_B })).close();
    const vf = await (await vfDevice(0)).open({ vfToken: UUID_B });
    expect(dev.vf.users).toBe(1);
    expect(await errnoOfAsync(() => dev.open())).toBe('EACCES');
    expect(await errnoOfAsync(() => dev.open({ vfToken: UUID_A }))).toBe('EACCES');
    await (await dev.open({ vfToken: UUID_B })).close();
    await vf.close();
    expect(dev.vf.users).toBe(0);
    await (await dev.open({ vfToken: UUID_A })).close();
  });

  test('starts with a random token', async () => {
    const one = await sriov();
    const two = await sriov();
    expect(one.dev.vf.token).toHaveLength(16);
    expect(one.dev.vf.token).not.toEqual(two.dev.vf.token);
    expect(one.dev.vf.token![6]! >> 4).toBe(4);
  });
});

describe('a function that is neither', () => {
  test('refuses a token, and one that is no UUID', async () => {
    const { dev } = await rig();
    expect(await errnoOfAsync(() => dev.open({ vfToken: UUID_A }))).toBe('EINVAL');
    expect(await errnoOfAsync(() => dev.open({ vfToken: 'x' }))).toBe('EINVAL');
    expect(await errnoOfAsync(() => dev.open({ vfToken: new Uint8Array(15) }))).toBe('EINVAL');
    expect(dev.openCount).toBe(0);
  });
});

describe('feature PCI_VF_TOKEN', () => {
  test('sets the token at any time, also while VFs are in use; nobody gets it', async () => {
    const { dev, vfDevice } = await sriov();
    const pf = await dev.open({ vfToken: UUID_A });
    await vfioPciCoreSriovConfigure(dev, 2);
    const vf = await (await vfDevice(0)).open({ vfToken: UUID_A });
    const value = parseUuid(UUID_B);
    pf.deviceFeature({ flags: TOKEN | VFIO_DEVICE_FEATURE_SET, value });
    value.fill(0);
    const other = await vfDevice(1);
    expect(await errnoOfAsync(() => other.open({ vfToken: UUID_A }))).toBe('EACCES');
    await (await other.open({ vfToken: UUID_B })).close();
    expect(errnoOf(() => pf.deviceFeature({ flags: TOKEN | VFIO_DEVICE_FEATURE_GET }))).toBe('EINVAL');
    expect(
      errnoOf(() => pf.deviceFeature({ flags: TOKEN | VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_PROBE })),
    ).toBe('none');
    expect(errnoOf(() => pf.deviceFeature({ flags: TOKEN | VFIO_DEVICE_FEATURE_SET, value: new Uint8Array(15) }))).toBe(
      'EINVAL',
    );
    expect(errnoOf(() => pf.deviceFeature({ flags: TOKEN | VFIO_DEVICE_FEATURE_SET }))).toBe('EINVAL');
    expect(
      errnoOf(() => vf.deviceFeature({ flags: TOKEN | VFIO_DEVICE_FEATURE_SET, value })),
      'of a VF',
    ).toBe('ENOTTY');
    await vf.close();
    await pf.close();
  });
});

describe('names with options', () => {
  const NAME = '0000:01:00.0';

  test('match the address, whole, and then their token is checked', async () => {
    const { dev } = await rig();
    expect(dev.ops.match(dev, NAME)).toBe(true);
    expect(dev.ops.match(dev, `${NAME}  `)).toBe(true);
    for (const other of ['0000:01:00.1', '0000:01:00', `${NAME}0`, `${NAME},vf_token=${UUID_A}`, ` ${NAME}`, '']) {
      expect(dev.ops.match(dev, other), other).toBe(false);
    }
  });

  test.each([
    ['an unknown option', `${NAME} foo=1`, 'EINVAL'],
    ['an option without a value', `${NAME} vf_token`, 'EINVAL'],
    ['a short UUID', `${NAME} vf_token=${UUID_A.slice(1)}`, 'EINVAL'],
    ['a UUID with something behind it', `${NAME} vf_token=${UUID_A}0`, 'EINVAL'],
    ['a doubled option', `${NAME} vf_token=${UUID_A} vf_token=${UUID_A}`, 'EINVAL'],
    ['a right one', `${NAME} vf_token=${UUID_A}`, 'none'],
  ])('of a PF with %s give %s', async (_name, text, errno) => {
    const { dev } = await sriov();
    expect(errnoOf(() => dev.ops.match(dev, text))).toBe(errno);
  });

  test('with a token that nobody asked for are refused', async () => {
    const { dev } = await rig();
    expect(errnoOf(() => dev.ops.match(dev, `${NAME} vf_token=${UUID_A}`))).toBe('EINVAL');
  });

  test('open the device that they name, with its token', async () => {
    const { dev, vfDevice } = await sriov();
    await vfioPciCoreSriovConfigure(dev, 1);
    const vf = await vfDevice(0);
    const all = [dev, vf];
    const pf = await vfioOpenByName(all, `${NAME}   vf_token=${UUID_A}`);
    expect(await errnoOfAsync(() => vfioOpenByName(all, '0000:01:00.1'))).toBe('EACCES');
    const opened = await vfioOpenByName(all, `0000:01:00.1 vf_token=${UUID_A}`);
    expect(opened.function.address).toBe('0000:01:00.1');
    expect(await errnoOfAsync(() => vfioOpenByName(all, '0000:02:00.0'))).toBe('ENODEV');
    await opened.close();
    await pf.close();
  });
});

describe('SR-IOV', () => {
  test('creates and removes VFs; a second creation is EINVAL, a second removal nothing', async () => {
    const { dev, numVfs } = await sriov();
    expect(await vfioPciCoreSriovConfigure(dev, 0)).toBe(0);
    expect(await vfioPciCoreSriovConfigure(dev, 3)).toBe(3);
    expect(await errnoOfAsync(() => vfioPciCoreSriovConfigure(dev, 2))).toBe('EINVAL');
    expect(await vfioPciCoreSriovConfigure(dev, 0)).toBe(0);
    expect(numVfs.numVfs).toBe(0);
    expect(await vfioPciCoreSriovConfigure(dev, 1)).toBe(1);
  });

  test('that fails leaves the PF as it was', async () => {
    const { dev, state, pf } = await sriov(true);
    expect(pf.power).toEqual([3]);
    state.fail = dev.error('EBUSY', 'enable', 'no room');
    expect(await errnoOfAsync(() => vfioPciCoreSriovConfigure(dev, 2))).toBe('EBUSY');
    expect([dev.vf.sriovActive, pf.power.at(-1)]).toEqual([false, 3]);
    state.fail = undefined;
    expect(await vfioPciCoreSriovConfigure(dev, 2)).toBe(2);
  });

  test('keeps the PF in D0 while VFs are there: lower is EBUSY, also for its user', async () => {
    const { dev, pf } = await sriov(true);
    await vfioPciCoreSriovConfigure(dev, 1);
    expect(pf.power.at(-1)).toBe(0);
    const device = await dev.open();
    await device.write(7, 0x44, Uint8Array.of(3, 0));
    expect(pf.power.at(-1)).toBe(0);
    await device.close();
    expect(pf.power.at(-1)).toBe(0);
    await vfioPciCoreSriovConfigure(dev, 0);
    expect(pf.power.at(-1)).toBe(3);
  });

  test('brings a PF that its user put into D3hot to D0', async () => {
    const { dev, pf } = await sriov(true);
    const device = await dev.open();
    await device.write(7, 0x44, Uint8Array.of(3, 0));
    expect(pf.power.at(-1)).toBe(3);
    await vfioPciCoreSriovConfigure(dev, 1);
    expect(pf.power.at(-1)).toBe(0);
  });

  test('of a function without it is ENODEV', async () => {
    const { dev } = await rig();
    expect(await errnoOfAsync(() => vfioPciCoreSriovConfigure(dev, 1))).toBe('ENODEV');
    expect(await vfioPciCoreSriovConfigure(dev, 0)).toBe(0);
  });

  test('ends when the PF is unregistered', async () => {
    const { dev, numVfs } = await sriov();
    await vfioPciCoreSriovConfigure(dev, 2);
    await vfioPciCoreUnregisterDevice(dev);
    expect(numVfs.numVfs).toBe(0);
  });
});

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { bareTarget } from '../src/config-space-bare.js';
import { openRecording } from '../src/config-space-device.js';
import { OWN_VECTORS, parseRecording, readRecordings, vectorsFolder } from '../src/config-space-recording.js';
import { replay } from '../src/config-space-replay.js';

const text = readFileSync(join(OWN_VECTORS, 'config-space/nvme.json'), 'utf8');
const whole = JSON.parse(text) as Record<string, unknown>;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-vectors-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
  vi.unstubAllEnvs();
});

describe('VFIO_VECTORS', () => {
  test('names the folder, seen from where npm was started; the default is the folder of this repository', () => {
    vi.stubEnv('VFIO_VECTORS', '');
    expect(vectorsFolder()).toBe(OWN_VECTORS);
    vi.stubEnv('VFIO_VECTORS', '/elsewhere');
    expect(vectorsFolder()).toBe('/elsewhere');
    vi.stubEnv('VFIO_VECTORS', 'kept');
    vi.stubEnv('INIT_CWD', '/started');
    expect(vectorsFolder()).toBe('/started/kept');
  });

  test('recordings lie in config-space, whatever they are called and however many there are', () => {
    mkdirSync(join(folder, 'config-space'));
    for (const name of ['b: two.json', 'a.json', 'README.md']) writeFileSync(join(folder, 'config-space', name), text);
    expect(readRecordings(folder).map(({ name }) => name)).toEqual(['a', 'b: two']);
  });

  test('or in the folder itself', () => {
    writeFileSync(join(folder, 'x.json'), text);
    expect(readRecordings(folder).map(({ name }) => name)).toEqual(['x']);
  });

  test('a folder without recordings is an error: nothing replayed is nothing proved', () => {
    expect(() => readRecordings(folder)).toThrow(`no recordings (*.json) in ${folder}`);
    mkdirSync(join(folder, 'config-space'));
    writeFileSync(join(folder, 'x.json'), text);
    expect(() => readRecordings(folder)).toThrow(`no recordings (*.json) in ${folder}/config-space`);
    expect(() => readRecordings(join(folder, 'gone'))).toThrow('ENOENT');
  });

  test('a file that is no recording is an error that names it', () => {
    writeFileSync(join(folder, 'cut.json'), '{');
    expect(() => readRecordings(folder)).toThrow('recording cut is not JSON');
    for (const content of ['null', '{"ops":[]}', '[]']) {
      writeFileSync(join(folder, 'cut.json'), content);
      expect(() => readRecordings(folder)).toThrow(/recording cut has no hardwareMask, openHardware, openView/);
    }
  });
});

test('a recording of config space alone is replayed: ids are those of the view, the rest is not compared', async () => {
  const { hardwareMask, openHardware, openView, ops, resources } = whole;
  const least = parseRecording('least', JSON.stringify({ hardwareMask, openHardware, openView, ops, resources }));
  const { name: _name, address: _address, ...ids } = parseRecording('nvme', text);
  const { vendor, device, subsystemVendor, subsystemDevice, class: deviceClass } = ids;
  expect(least).toMatchObject({ vendor, device, subsystemVendor, subsystemDevice, class: deviceClass });
  expect(await replay(least, bareTarget(least))).toEqual([]);
  const opened = await openRecording(least);
  expect(await replay(least, opened)).toEqual([]);
  await opened.device.close();
});

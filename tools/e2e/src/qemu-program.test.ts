import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { isNewEnough, systemQemu } from './qemu-program.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'qemu-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** A program that answers `--version` and `-device help` like a QEMU of this kind. */
function fake(version: string, devices: string): { VFIO_E2E_QEMU: string } {
  const program = join(folder, 'qemu');
  const help = `case "$1" in --version) echo "QEMU emulator version ${version} (Debian)";; *) echo '${devices}';; esac`;
  writeFileSync(program, `#!/bin/sh\n${help}\n`);
  chmodSync(program, 0o755);
  return { VFIO_E2E_QEMU: program };
}

test.each([
  ['9.2.0', false],
  ['10.0.13', false],
  ['10.1.0', true],
  ['11.0.0', true],
  ['11.1.3', true],
])('version %s is new enough: %s', (version, expected) => {
  expect(isNewEnough(version)).toBe(expected);
});

test('a named QEMU that has the device is taken', async () => {
  const named = fake('10.1.2', 'name "vfio-user-pci", bus PCI');
  expect(await systemQemu(named)).toEqual({
    argv: [named.VFIO_E2E_QEMU],
    env: {},
    version: '10.1.2',
    origin: 'system',
  });
});

test('a named QEMU that will not do is an error that says why', async () => {
  await expect(systemQemu(fake('7.2.9', ''))).rejects.toThrow('version 7.2.9 is older than 10.1');
  await expect(systemQemu(fake('10.1.2', 'name "edu"'))).rejects.toThrow('built without vfio-user-pci');
  await expect(systemQemu({ VFIO_E2E_QEMU: join(folder, 'none') })).rejects.toThrow('ENOENT');
});

test('a QEMU in PATH that will not do is passed over', async () => {
  vi.stubEnv('PATH', '/nonexistent');
  try {
    expect(await systemQemu({})).toBeUndefined();
  } finally {
    vi.unstubAllEnvs();
  }
});

import type { PciDriver, VfioDeviceClient, VfioDeviceProvider } from '@vfio/core';
import { EmulatedPciHost, SerialCard, type SerialCardOptions, UART } from '@vfio/emulated';
import type { DeviceState, DeviceWorkload } from '@vfio/testing';
import { VFIO_PCI_MSI_IRQ_INDEX } from '@vfio/uapi';
import { serialVfioPciDriver } from '@vfio-examples/serial-vfio-pci';
import { bound } from './subjects.js';

/** A serial card on a host of its own, with a driver. */
export function serialCard(
  driver: PciDriver = serialVfioPciDriver(),
  options: SerialCardOptions = {},
): Promise<VfioDeviceProvider> {
  const host = new EmulatedPciHost();
  const fn = host.add({ address: '0000:00:03.0', model: (ctx) => new SerialCard(ctx, options) });
  return bound(host, fn, driver);
}

async function read(device: VfioDeviceClient, port: number, register: number): Promise<number> {
  const byte = new Uint8Array(1);
  await device.read(port, register, byte);
  return byte[0] ?? 0;
}

const write = (device: VfioDeviceClient, port: number, register: number, value: number) =>
  device.write(port, register, Uint8Array.of(value));

/** Registers of both ports that mean nothing to each other. With a divisor of 0 no character moves by itself. */
export const serialState: DeviceState = {
  async put(device, seed) {
    for (const port of [0, 1]) {
      await write(device, port, UART.FCR, UART.FCR_ENABLE);
      await write(device, port, UART.LCR, UART.LCR_DLAB | (seed & 0x7f));
      await write(device, port, UART.DLL, (seed * 7 + port) & 0xff);
      await write(device, port, UART.DLM, seed & 0xff);
      await write(device, port, UART.LCR, (seed + port) & 0x7f);
      await write(device, port, UART.MCR, seed & 0x0f);
      await write(device, port, UART.SCR, (seed * 31 + port) & 0xff);
    }
  },
  async get(device) {
    const found: number[] = [];
    for (const port of [0, 1]) {
      for (const register of [UART.IER, UART.LCR, UART.MCR, UART.SCR]) found.push(await read(device, port, register));
      const lcr = await read(device, port, UART.LCR);
      await write(device, port, UART.LCR, lcr | UART.LCR_DLAB);
      for (const register of [UART.DLL, UART.DLM]) found.push(await read(device, port, register));
      await write(device, port, UART.LCR, lcr);
    }
    return Uint8Array.from(found);
  },
};

/** The receiver's interrupt comes with the last of them. */
const CHARACTERS = 14;

/** Characters that go round through loopback, and come back as they were. The card writes no memory. */
export const serialWorkload = (map: DeviceWorkload['map']): DeviceWorkload => ({
  map,
  async run(device, _memory, random) {
    const port = Math.floor(random() * 2);
    await write(device, port, UART.LCR, UART.LCR_DLAB | UART.LCR_8_BITS);
    await write(device, port, UART.DLL, 1);
    await write(device, port, UART.DLM, 0);
    await write(device, port, UART.LCR, UART.LCR_8_BITS);
    await write(device, port, UART.MCR, UART.MCR_LOOP);
    await write(device, port, UART.FCR, 0);
    await write(device, port, UART.FCR, UART.FCR_ENABLE | UART.FCR_TRIGGER_14);
    await write(device, port, UART.IER, UART.IER_RDA);
    const sent = Array.from({ length: CHARACTERS }, () => Math.floor(random() * 256));
    for (const byte of sent) await write(device, port, UART.THR, byte);
    while (((await read(device, port, UART.LSR)) & UART.LSR_TEMT) === 0)
      await new Promise((resolve) => setImmediate(resolve));
    const found: number[] = [];
    for (const _ of sent) found.push(await read(device, port, UART.RBR));
    if (found.join() !== sent.join()) throw new Error(`sent ${sent.join(' ')}, received ${found.join(' ')}`);
    return [];
  },
  interrupt: { index: VFIO_PCI_MSI_IRQ_INDEX, vector: 0 },
});

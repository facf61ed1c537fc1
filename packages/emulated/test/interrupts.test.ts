import { PCI_CAP_ID_MSI, PCI_CAP_ID_MSIX, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { DeviceModel, FunctionContext } from '../src/index.js';
import { findCapability, manualHost, setCommand, setMaster } from './helpers/setup.js';

/** A function whose interrupts the test pulls. */
class Bell implements DeviceModel {
  readonly ctx: FunctionContext;

  constructor(ctx: FunctionContext, before23 = false) {
    this.ctx = ctx;
    ctx.identity({ vendor: 1, device: 2, class: 0xff0000 });
    if (before23) ctx.beforePci23();
    ctx.intx(1);
    ctx.bar(0, { size: 0x2000 });
    ctx.msi({ vectors: 4, is64Bit: true, maskable: true });
    ctx.msix({ vectors: 70, table: { bar: 0, offset: 0 }, pba: { bar: 0, offset: 0x1000 } });
  }

  reset(): void {}
}

function bell(options: { before23?: boolean; limits?: { msi?: number; msix?: number } } = {}) {
  const { host } = manualHost({ vectorLimits: options.limits ?? {} });
  const fn = host.add({ address: '0000:00:02.0', model: (ctx) => new Bell(ctx, options.before23) });
  setMaster(fn, true);
  return { host, fn, irq: fn.model.ctx.irq, interrupts: fn.interrupts, bar: fn.open(0) };
}

/** Counts calls per vector. */
function counters(interrupts: ReturnType<typeof bell>['interrupts'], vectors: number): number[] {
  const counts = new Array<number>(vectors).fill(0);
  for (let v = 0; v < vectors; v++)
    interrupts.setVectorHandler(v, () => {
      counts[v] = (counts[v] ?? 0) + 1;
    });
  return counts;
}

describe('INTx', () => {
  test('the handler runs once when the pin is asserted, not again while it stays', () => {
    const { irq, interrupts } = bell();
    let count = 0;
    interrupts.requestIntx(() => count++, false);
    irq.setIntx(true);
    irq.setIntx(true);
    expect(count).toBe(1);
    irq.setIntx(false);
    irq.setIntx(true);
    expect(count).toBe(2);
  });

  test('DisINTx takes the pin off the line; clearing it on an asserted pin interrupts again', () => {
    const { fn, irq, interrupts } = bell();
    let count = 0;
    interrupts.requestIntx(() => count++, false);
    setCommand(fn, PCI_COMMAND_INTX_DISABLE, 0);
    irq.setIntx(true);
    expect(count).toBe(0);
    setCommand(fn, 0, PCI_COMMAND_INTX_DISABLE);
    expect(count).toBe(1);
  });

  test('a handler may mask with DisINTx while it runs', () => {
    const { fn, irq, interrupts } = bell();
    let count = 0;
    interrupts.requestIntx(() => {
      count++;
      setCommand(fn, PCI_COMMAND_INTX_DISABLE, 0);
    }, false);
    irq.setIntx(true);
    setCommand(fn, 0, PCI_COMMAND_INTX_DISABLE);
    expect(count).toBe(2);
    expect(irq.isDriving).toBe(false);
  });

  test('a line disabled at the controller holds the interrupt until it is enabled', () => {
    const { irq, interrupts } = bell();
    let count = 0;
    interrupts.requestIntx(() => count++, true);
    interrupts.setIntxLineEnabled(false);
    irq.setIntx(true);
    expect(count).toBe(0);
    interrupts.setIntxLineEnabled(true);
    expect(count).toBe(1);
    irq.setIntx(false);
    interrupts.setIntxLineEnabled(true);
    expect(count).toBe(1);
  });

  test('functions that share a line are all called, and a line taken exclusively is busy', () => {
    const { host, irq, interrupts } = bell();
    const other = host.add({ address: '0000:00:0a.0', model: (ctx) => new Bell(ctx) });
    expect(other.interrupts.intxLine).toBe(interrupts.intxLine);
    const calls: string[] = [];
    interrupts.requestIntx(() => calls.push('first'), false);
    other.interrupts.requestIntx(() => calls.push('second'), false);
    irq.setIntx(true);
    expect(calls).toEqual(['first', 'second']);
    other.model.ctx.irq.setIntx(true);
    expect(calls).toHaveLength(4);
    other.interrupts.freeIntx();
    expect(() => other.interrupts.requestIntx(() => {}, true)).toThrow(expect.objectContaining({ errno: 'EBUSY' }));
    interrupts.freeIntx();
    other.interrupts.requestIntx(() => {}, true);
    expect(() => interrupts.requestIntx(() => {}, false)).toThrow(expect.objectContaining({ errno: 'EBUSY' }));
  });

  test('pins are turned by the device number below a bridge', () => {
    const { host } = manualHost();
    const line = (address: string): number | undefined =>
      host.add({ address, model: (ctx) => new Bell(ctx) }).interrupts.intxLine;
    expect(line('0000:00:02.0')).toBe(18);
    expect(line('0000:00:03.0')).toBe(19);
    host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
    expect(line('0000:01:00.0')).toBe(16 + ((0x1c + 0) & 7));
  });

  test('without a pin there is no line', () => {
    const { host } = manualHost();
    const fn = host.add({
      address: '0000:00:02.0',
      model: (ctx) => {
        ctx.identity({ vendor: 1, device: 2, class: 0 });
        return {};
      },
    });
    expect(fn.interrupts.intxLine).toBeUndefined();
    expect(() => fn.interrupts.requestIntx(() => {}, false)).toThrow(expect.objectContaining({ errno: 'ENODEV' }));
  });

  test('before PCI 2.3 there is neither DisINTx nor a status bit', () => {
    const { fn, irq } = bell({ before23: true });
    setCommand(fn, PCI_COMMAND_INTX_DISABLE, 0);
    expect(fn.config.read(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE).toBe(0);
    irq.setIntx(true);
    expect(irq.isDriving).toBe(true);
    expect(fn.config.read(6, 2) & 8).toBe(0);
  });
});

describe('MSI', () => {
  test('allocating enables the capability, grants a power of two and disables INTx; freeing undoes it', () => {
    const { fn, interrupts, irq } = bell();
    const flags = findCapability(fn, PCI_CAP_ID_MSI) + 2;
    expect(interrupts.allocVectors('msi', 3)).toBe(3);
    expect(fn.config.read(flags, 2) & 0x71).toBe(0x21);
    expect(fn.config.read(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE).toBe(PCI_COMMAND_INTX_DISABLE);
    expect(irq.mode).toBe('msi');
    interrupts.freeVectors();
    expect(fn.config.read(flags, 2) & 0x71).toBe(0);
    expect(fn.config.read(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE).toBe(0);
    expect(irq.mode).toBe('intx');
  });

  test('each vector reaches its own handler', () => {
    const { interrupts, irq } = bell();
    interrupts.allocVectors('msi', 4);
    const counts = counters(interrupts, 4);
    irq.send(2);
    irq.send(0);
    irq.send(2);
    expect(counts).toEqual([1, 0, 2, 0]);
  });

  test('a vector beyond the granted ones shares the last', () => {
    const { interrupts, irq } = bell();
    interrupts.allocVectors('msi', 2);
    const counts = counters(interrupts, 2);
    irq.send(3);
    expect(counts).toEqual([0, 1]);
  });

  test('what comes while a vector is masked is pending and delivered once on unmasking', () => {
    const { fn, interrupts, irq } = bell();
    interrupts.allocVectors('msi', 2);
    irq.send(1);
    irq.send(1);
    const at = findCapability(fn, PCI_CAP_ID_MSI);
    expect(fn.config.read(at + 0x14, 4)).toBe(2);
    const counts = counters(interrupts, 2);
    expect(counts).toEqual([0, 1]);
    expect(fn.config.read(at + 0x14, 4)).toBe(0);
  });

  test('fewer than asked for is an answer, and nothing is enabled', () => {
    const { interrupts, irq } = bell({ limits: { msi: 1 } });
    expect(interrupts.allocVectors('msi', 4)).toBe(1);
    expect(irq.mode).toBe('intx');
    expect(interrupts.allocVectors('msi', 1)).toBe(1);
  });
});

describe('MSI-X', () => {
  test('allocating programs the table, all vectors masked, and enables', () => {
    const { fn, interrupts, bar } = bell();
    expect(interrupts.allocVectors('msix', 2)).toBe(2);
    expect(fn.config.read(findCapability(fn, PCI_CAP_ID_MSIX) + 2, 2)).toBe(0x8000 | 69);
    expect(bar.read(0, 4) >>> 0).toBe(0xfee00000);
    expect(bar.read(8, 4)).not.toBe(bar.read(16 + 8, 4));
    for (const vector of [0, 1, 2, 69]) expect(bar.read(16 * vector + 12, 4)).toBe(1);
  });

  test('a vector reaches its handler, and only with bus mastering', () => {
    const { fn, interrupts, irq } = bell();
    interrupts.allocVectors('msix', 3);
    const counts = counters(interrupts, 3);
    irq.send(2);
    setMaster(fn, false);
    irq.send(2);
    setMaster(fn, true);
    expect(counts).toEqual([0, 0, 1]);
  });

  test('a masked vector sets its pending bit, unmasking delivers it once', () => {
    const { interrupts, irq, bar } = bell();
    interrupts.allocVectors('msix', 70);
    irq.send(65);
    expect([bar.read(0x1000, 4), bar.read(0x1008, 4)]).toEqual([0, 2]);
    bar.write(0x1008, 4, 0);
    expect(bar.read(0x1008, 4)).toBe(2);
    const counts = counters(interrupts, 70);
    expect(counts[65]).toBe(1);
    expect(bar.read(0x1008, 4)).toBe(0);
  });

  test('the function mask holds all vectors, and opening it delivers what is pending', () => {
    const { fn, interrupts, irq, bar } = bell();
    interrupts.allocVectors('msix', 2);
    const counts = counters(interrupts, 2);
    const at = findCapability(fn, PCI_CAP_ID_MSIX) + 2;
    fn.config.write(at, 2, 0xc000);
    irq.send(1);
    expect(counts).toEqual([0, 0]);
    expect(bar.read(0x1000, 4)).toBe(2);
    fn.config.write(at, 2, 0x8000);
    expect(counts).toEqual([0, 1]);
  });

  test('removing a handler masks its vector; a new one gets what came meanwhile', () => {
    const { interrupts, irq } = bell();
    interrupts.allocVectors('msix', 1);
    let count = 0;
    interrupts.setVectorHandler(0, () => count++);
    interrupts.setVectorHandler(0, undefined);
    irq.send(0);
    expect(count).toBe(0);
    interrupts.setVectorHandler(0, () => count++);
    expect(count).toBe(1);
  });

  test('single vectors are added while it is enabled', () => {
    const { interrupts, irq } = bell();
    interrupts.allocVectors('msix', 1);
    interrupts.allocMsixAt(40);
    let count = 0;
    interrupts.setVectorHandler(40, () => count++);
    irq.send(40);
    expect(count).toBe(1);
  });

  test('messages that a reset wiped are written again, mask and all', () => {
    const { fn, interrupts, irq } = bell();
    interrupts.allocVectors('msix', 2);
    const counts = counters(interrupts, 2);
    fn.powerCycle();
    const at = findCapability(fn, PCI_CAP_ID_MSIX) + 2;
    setCommand(fn, 6, 0);
    fn.config.write(at, 2, 0x8000);
    irq.send(0);
    expect(counts).toEqual([0, 0]);
    interrupts.rewriteMessage(0);
    expect(counts).toEqual([1, 0]);
    irq.send(0);
    expect(counts).toEqual([2, 0]);
  });

  test('the table is reached through memory decoding like everything in the BAR', () => {
    const { fn, interrupts, irq } = bell();
    setCommand(fn, 0, 2);
    interrupts.allocVectors('msix', 1);
    setCommand(fn, 2, 0);
    expect(fn.open(0).read(0, 4)).toBe(0);
    let count = 0;
    interrupts.setVectorHandler(0, () => count++);
    irq.send(0);
    expect(count).toBe(0);
  });

  test.each([
    ['none', (i: ReturnType<typeof bell>['interrupts']) => i.allocVectors('msix', 0), 'EINVAL'],
    [
      'a second type',
      (i: ReturnType<typeof bell>['interrupts']) => {
        i.allocVectors('msix', 1);
        i.allocVectors('msi', 1);
      },
      'EINVAL',
    ],
    [
      'one beyond the table',
      (i: ReturnType<typeof bell>['interrupts']) => {
        i.allocVectors('msix', 1);
        i.allocMsixAt(70);
      },
      'EINVAL',
    ],
    [
      'one that is there',
      (i: ReturnType<typeof bell>['interrupts']) => {
        i.allocVectors('msix', 1);
        i.allocMsixAt(0);
      },
      'EINVAL',
    ],
    [
      'one beyond the host',
      (i: ReturnType<typeof bell>['interrupts']) => {
        i.allocVectors('msix', 2);
        i.allocMsixAt(5);
      },
      'ENOSPC',
    ],
    [
      'a handler without a vector',
      (i: ReturnType<typeof bell>['interrupts']) => i.setVectorHandler(0, () => {}),
      'EINVAL',
    ],
  ])('asking for %s is refused', (_name, call, errno) => {
    const { interrupts } = bell({ limits: { msix: 2 } });
    expect(() => call(interrupts)).toThrow(expect.objectContaining({ errno }));
  });
});

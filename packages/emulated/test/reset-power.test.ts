import { PCI_CAP_ID_PM, PCI_CAP_ID_SSVID, PCI_COMMAND, PCI_EXT_CAP_ID_ERR, PCI_STATUS } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { DeviceModel, EmulatedFunction, FunctionContext, ResetKind } from '../src/index.js';
import { MemorySpace } from './helpers/memory-space.js';
import { bareModel, findCapability, findExtended, manualHost, setCommand, setMaster } from './helpers/setup.js';

type Declare = (ctx: FunctionContext) => void;

/** A function that writes down what happens to it. */
class Recorder implements DeviceModel {
  readonly log: string[] = [];
  readonly ctx: FunctionContext;

  constructor(ctx: FunctionContext, declare: Declare) {
    this.ctx = ctx;
    ctx.identity({ vendor: 1, device: 2, class: 0xff0000 });
    ctx.bar(0, { size: 0x1000 });
    declare(ctx);
  }

  reset(kind: ResetKind): void {
    this.log.push(kind);
  }

  powerState(state: number): void {
    this.log.push(`D${state}`);
  }

  busMaster(enabled: boolean): void {
    this.log.push(enabled ? 'master' : 'no master');
  }
}

function recorder(declare: Declare, address = '0000:01:00.0') {
  const { host } = manualHost();
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  const fn = host.add({ address, model: (ctx) => new Recorder(ctx, declare) });
  return { host, fn, log: fn.model.log };
}

describe('reset methods', () => {
  test.each<[string, Declare, string[], string]>([
    ['FLR', (ctx) => ctx.express({ flr: true }), ['flr', 'bus'], 'flr'],
    ['AF', (ctx) => ctx.af(), ['af_flr', 'bus'], 'flr'],
    ['PM', (ctx) => ctx.pm(), ['pm', 'bus'], 'pm'],
    ['PM with NoSoftRst', (ctx) => ctx.pm({ noSoftReset: true }), ['bus'], 'bus'],
    ['nothing', () => {}, ['bus'], 'bus'],
  ])('a function with %s is reset by the best that it has', async (_name, declare, methods, kind) => {
    const { fn, log } = recorder(declare);
    expect(fn.resetMethods).toEqual(methods);
    fn.config.write(0x3c, 1, 0x77);
    await fn.tryResetFunction();
    expect(log.filter((entry) => entry !== 'D3')).toEqual([kind]);
    expect(fn.config.read(0x3c, 1)).toBe(0);
    expect(fn.config.read(PCI_COMMAND, 2)).toBe(0);
    expect(fn.config.read(0, 2)).toBe(1);
  });

  test('a method of the device comes first', () => {
    const { host } = manualHost();
    let count = 0;
    const fn = host.add({
      address: '0000:00:02.0',
      model: (ctx) => {
        ctx.identity({ vendor: 1, device: 2, class: 0 });
        ctx.express({ flr: true });
        return { deviceReset: () => void count++ };
      },
    });
    expect(fn.resetMethods[0]).toBe('device_specific');
    fn.tryResetFunction();
    expect(count).toBe(1);
  });

  test('on a root bus without any method it is ENOTTY', () => {
    const { fn } = recorder(() => {}, '0000:00:02.0');
    expect(() => fn.tryResetFunction()).toThrow(expect.objectContaining({ errno: 'ENOTTY' }));
  });

  test('a lock that is held makes EAGAIN, and nothing is reset', () => {
    const { fn, log } = recorder((ctx) => ctx.express({ flr: true }));
    const release = fn.holdResetLock();
    expect(() => fn.tryResetFunction()).toThrow(expect.objectContaining({ errno: 'EAGAIN' }));
    expect(() => fn.resetScope?.tryReset()).toThrow(expect.objectContaining({ errno: 'EAGAIN' }));
    expect(log).toEqual([]);
    release();
    release();
    fn.tryResetFunction();
    expect(log).toEqual(['flr']);
  });

  test('FLR stops DMA, interrupts and decoding until they are set up again', () => {
    const { fn } = recorder((ctx) => {
      ctx.intx();
      ctx.express({ flr: true });
    });
    setMaster(fn, true);
    fn.attachDma(new MemorySpace(0x1000));
    fn.model.ctx.irq.setIntx(true);
    fn.tryResetFunction();
    expect(fn.irq.isDriving).toBe(false);
    expect(fn.dma.enabled).toBe(false);
    expect(fn.open(0).read(0, 4)).toBe(-1);
  });
});

describe('slot and bus reset', () => {
  test.each([
    [true, 'slot'],
    [false, 'bus'],
  ] as const)('below a port with a slot: %s it is a %s reset of all that is there', (slot, kind) => {
    const { host } = manualHost();
    host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1, slot });
    const [a, b] = ['0000:01:00.0', '0000:01:00.1'].map((address) =>
      host.add({ address, model: (ctx) => new Recorder(ctx, () => {}) }),
    );
    expect(a?.resetScope?.kind).toBe(kind);
    expect(a?.resetScope?.functions().map((fn) => fn.address)).toEqual(['0000:01:00.0', '0000:01:00.1']);
    expect(a?.resetMethods).toEqual([]);
    a?.resetScope?.tryReset();
    expect([a?.model.log, b?.model.log]).toEqual([['bus'], ['bus']]);
  });

  test('the registers of all functions, their interrupts included, are kept over it', () => {
    const { fn } = recorder((ctx) => {
      ctx.bar(1, { size: 0x1000 });
      ctx.msix({ vectors: 2, table: { bar: 1, offset: 0 }, pba: { bar: 1, offset: 0x800 } });
      ctx.express();
    });
    setMaster(fn, true);
    let count = 0;
    fn.interrupts.allocVectors('msix', 2);
    fn.interrupts.setVectorHandler(1, () => count++);
    const before = Array.from({ length: 1024 }, (_, i) => fn.config.read(4 * i, 4));
    fn.resetScope?.tryReset();
    expect(Array.from({ length: 1024 }, (_, i) => fn.config.read(4 * i, 4))).toEqual(before);
    fn.irq.send(1);
    expect(count).toBe(1);
  });

  test('a function on a root bus has none', () => {
    expect(recorder(() => {}, '0000:00:02.0').fn.resetScope).toBeUndefined();
  });

  test('while the bridge holds the bus in reset nothing below answers', () => {
    const { host, fn } = recorder(() => {});
    const port = host.find('0000:00:1c.0');
    port?.config.write(0x3e, 2, 0x40);
    expect(fn.config.read(0, 4)).toBe(-1);
    port?.config.write(0x3e, 2, 0);
    expect(fn.config.read(0, 2)).toBe(1);
  });
});

describe('power', () => {
  test('in D3hot memory does not answer and DMA is off; config space does', () => {
    const { fn } = recorder((ctx) => ctx.pm({ noSoftReset: true }));
    setMaster(fn, true);
    fn.setPowerState(3);
    expect(fn.powerState).toBe(3);
    expect(fn.open(0).read(0, 4)).toBe(-1);
    expect(fn.dma.enabled).toBe(false);
    expect(fn.config.read(0, 2)).toBe(1);
    fn.setPowerState(0);
    expect(fn.open(0).read(0, 4)).toBe(0);
  });

  test.each([true, false])('registers survive D3hot exactly with NoSoftRst (%s)', (noSoftReset) => {
    const { fn, log } = recorder((ctx) => ctx.pm({ noSoftReset }));
    fn.config.write(0x3c, 1, 0x77);
    fn.setPowerState(3);
    fn.setPowerState(0);
    expect(fn.config.read(0x3c, 1)).toBe(noSoftReset ? 0x77 : 0);
    expect(log).toEqual(noSoftReset ? ['D3', 'D0'] : ['D3', 'pm']);
  });

  test.each([
    [1, false, 0],
    [1, true, 1],
    [2, true, 0],
  ])('D%i on a function that has D1: %s ends in D%i', (state, d1, expected) => {
    const { fn } = recorder((ctx) => ctx.pm({ d1 }));
    fn.setPowerState(state as 1 | 2);
    expect(fn.powerState).toBe(expected);
    expect(fn.config.read(findCapability(fn, PCI_CAP_ID_PM) + 4, 2) & 3).toBe(expected);
  });

  test('from D3hot the way leads to D0 only', () => {
    const { fn } = recorder((ctx) => ctx.pm({ d1: true, d2: true, noSoftReset: true }));
    fn.setPowerState(3);
    fn.setPowerState(1);
    expect(fn.powerState).toBe(3);
  });

  test('without the capability nothing changes', () => {
    const { fn } = recorder(() => {});
    fn.setPowerState(3);
    expect(fn.powerState).toBe(0);
  });

  test('the model hears when bus mastering is switched', () => {
    const { fn, log } = recorder(() => {});
    setMaster(fn, true);
    setMaster(fn, true);
    setMaster(fn, false);
    expect(log).toEqual(['master', 'no master']);
  });
});

describe('DMA', () => {
  test.each([
    ['bus mastering off', false, true],
    ['no address space', true, false],
  ])('with %s it faults', (_name, master, attached) => {
    const { fn } = recorder(() => {});
    setMaster(fn, master);
    if (attached) fn.attachDma(new MemorySpace(0x1000));
    for (const access of [
      () => fn.dma.read(0, new Uint8Array(4)),
      () => fn.dma.write(0, new Uint8Array(4)),
      () => fn.dma.view(0, 4, false),
    ])
      expect(access).toThrow(expect.objectContaining({ errno: 'EFAULT' }));
  });

  test.each([
    ['its bus mastering off', (port: EmulatedFunction) => setMaster(port, false)],
    ['its power state D3hot', (port: EmulatedFunction) => port.setPowerState(3)],
  ])('below a port with %s neither DMA nor a message gets through, and the request is aborted', (_what, close) => {
    const { host } = manualHost();
    const port = host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
    const fn = host.add({
      address: '0000:01:00.0',
      model: bareModel((ctx) => {
        ctx.bar(0, { size: 4096, memory: true });
        ctx.msi();
      }),
    });
    setMaster(fn, true);
    fn.attachDma(new MemorySpace(0x1000));
    let messages = 0;
    fn.interrupts.allocVectors('msi', 1);
    fn.interrupts.setVectorHandler(0, () => void messages++);
    fn.dma.write(0, new Uint8Array(4));
    fn.irq.send(0);
    expect([messages, fn.config.read(PCI_STATUS, 2) & 0x2000]).toEqual([1, 0]);
    close(port);
    expect(() => fn.dma.write(0, new Uint8Array(4))).toThrow(expect.objectContaining({ errno: 'EFAULT' }));
    fn.irq.send(0);
    expect([messages, fn.config.read(PCI_STATUS, 2) & 0x2000]).toEqual([1, 0x2000]);
  });

  test('an address that nobody claims sets Received Master Abort, which software clears by writing 1', () => {
    const { fn } = recorder(() => {});
    setMaster(fn, true);
    fn.attachDma(new MemorySpace(0x1000));
    expect(() => fn.dma.read(0x5000, new Uint8Array(4))).toThrow(expect.objectContaining({ errno: 'EFAULT' }));
    expect(fn.config.read(PCI_STATUS, 2) & 0x2000).toBe(0x2000);
    fn.config.write(PCI_STATUS, 2, 0x2000);
    expect(fn.config.read(PCI_STATUS, 2) & 0x2000).toBe(0);
  });
});

describe('AER', () => {
  const UNSUPPORTED = 0x00100000;

  function reporting() {
    const { fn } = recorder((ctx) => {
      ctx.express();
      ctx.aer();
    });
    let count = 0;
    const stop = fn.onError(() => count++);
    return { fn, at: findExtended(fn, PCI_EXT_CAP_ID_ERR), count: () => count, stop };
  }

  test('an error sets its sticky status bit and is reported', () => {
    const { fn, at, count, stop } = reporting();
    fn.model.ctx.reportError({ status: UNSUPPORTED });
    expect(fn.config.read(at + 4, 4)).toBe(UNSUPPORTED);
    expect(count()).toBe(1);
    fn.config.write(at + 4, 4, UNSUPPORTED);
    expect(fn.config.read(at + 4, 4)).toBe(0);
    stop();
    fn.model.ctx.reportError({ status: UNSUPPORTED });
    expect(count()).toBe(1);
  });

  test.each([
    ['masked', (fn: ReturnType<typeof reporting>['fn'], at: number) => fn.config.write(at + 8, 4, UNSUPPORTED)],
    ['not enabled', (fn: ReturnType<typeof reporting>['fn']) => fn.config.write(findCapability(fn, 0x10) + 8, 2, 0)],
  ])('one that is %s is recorded but not reported', (_name, prepare) => {
    const { fn, at, count } = reporting();
    prepare(fn, at);
    fn.model.ctx.reportError({ status: UNSUPPORTED });
    expect(fn.config.read(at + 4, 4)).toBe(UNSUPPORTED);
    expect(count()).toBe(0);
  });

  test('a root port has subsystem ids in their capability', () => {
    const { host } = recorder(() => {});
    const port = host.find('0000:00:1c.0');
    expect(port === undefined ? 0 : port.config.read(findCapability(port, PCI_CAP_ID_SSVID) + 4, 2)).toBe(0x1b36);
  });

  test('commands of COMMAND are kept apart: memory can be off while mastering is on', () => {
    const { fn } = recorder(() => {});
    setCommand(fn, 4, 2);
    expect(fn.config.read(PCI_COMMAND, 2) & 6).toBe(4);
  });
});

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { NVME_REG as REG } from '@vfio/emulated';
import { type HandoverReport, VfioUserClient } from '@vfio/vfio-user';

/** CC: enabled, with entries of 64 and 16 bytes. */
const ENABLED = 0x00460001;

interface Server {
  readonly child: ChildProcess;
  readonly path: string;
  line(): Promise<string>;
}

async function start(folder: string, mode: 'listen' | 'incoming', name: string): Promise<Server> {
  const path = join(folder, name);
  const child = spawn(process.execPath, [join(import.meta.dirname, 'nvme-server.js'), mode, path], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done === true) throw new Error(`the NVMe server ${name} has ended`);
    return value;
  };
  await line();
  return { child, path, line };
}

/** An enabled controller with nothing to do. */
async function enable(client: VfioUserClient): Promise<void> {
  await client.write(7, 4, Uint8Array.of(6, 0));
  await client.dmaAlloc({ iova: 0x10000n, size: 0x2000 });
  const set = async (register: number, value: number) => {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    await client.write(0, register, bytes);
  };
  await set(REG.AQA, 0x000f000f);
  await set(REG.ASQ, 0x10000);
  await set(REG.ACQ, 0x11000);
  await set(REG.CC, ENABLED);
  const status = new Uint8Array(4);
  do await client.read(0, REG.CSTS, status);
  while (((status[0] ?? 0) & 1) === 0);
}

/** Reads a register without end; the longest that one took since the last call, in milliseconds. */
function poll(client: VfioUserClient): { longest(): number; stop(): Promise<void> } {
  let [longest, isOver] = [0, false];
  const running = (async () => {
    const bytes = new Uint8Array(4);
    while (!isOver) {
      const before = performance.now();
      await client.read(0, REG.CSTS, bytes);
      longest = Math.max(longest, performance.now() - before);
    }
  })();
  return {
    longest() {
      const found = longest;
      longest = 0;
      return found;
    },
    async stop() {
      isOver = true;
      await running;
    },
  };
}

/**
 * Hands an idle NVMe from process to process while its client reads a register as fast as it can. For each handover the longest
 * that a read took, and the pause that the server says; milliseconds.
 */
export async function handovers(folder: string, count: number): Promise<{ waits: number[]; pauses: number[] }> {
  let server = await start(folder, 'listen', 'nvme.sock');
  const children = [server.child];
  const client = await VfioUserClient.connect(server.path);
  const [waits, pauses]: [number[], number[]] = [[], []];
  try {
    await enable(client);
    const polling = poll(client);
    for (let n = 0; n < count; n++) {
      const next = await start(folder, 'incoming', `nvme.in${n}`);
      children.push(next.child);
      polling.longest();
      const ended = once(server.child, 'exit');
      server.child.stdin?.write(`${next.path}\n`);
      const report = JSON.parse(await server.line()) as HandoverReport | { error: string };
      if ('error' in report) throw new Error(`a handover failed: ${report.error}`);
      await ended;
      pauses.push(report.pauseMs);
      waits.push(polling.longest());
      server = next;
    }
    await polling.stop();
    return { waits, pauses };
  } finally {
    await client.close();
    for (const child of children) child.kill('SIGKILL');
  }
}

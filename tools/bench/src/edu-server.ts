/**
 * An edu behind each socket that is named, all in this thread. Every SIGUSR2 is answered with a line of JSON: collections of
 * the young generation until now, bytes that JavaScript's heap holds, and bytes that are left when all garbage is collected,
 * which it then is.
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { deviceOf, OpsRegistry, PciBus } from '@vfio/core';
import { Edu, EmulatedPciHost } from '@vfio/emulated';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { VfioUserServer } from '@vfio/vfio-user';

const host = new EmulatedPciHost();
const bus = new PciBus(host, { ops: new OpsRegistry() });
await vfioPciDriver().load(bus);
const servers: VfioUserServer[] = [];
for (const [index, path] of process.argv.slice(2).entries()) {
  const address = `0000:00:${(1 + (index >> 3)).toString(16).padStart(2, '0')}.${index & 7}`;
  const fn = host.add({ address, model: (ctx) => new Edu(ctx) });
  await bus.bindOverride(fn, 'vfio-pci');
  const server = new VfioUserServer(deviceOf(bus, fn), { deferred: host.deferred });
  await server.listen(path);
  servers.push(server);
}

let scavenges = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    const { kind } = (entry as unknown as { detail: { kind: number } }).detail;
    // 1 is NODE_PERFORMANCE_GC_MINOR.
    if (kind === 1) scavenges++;
  }
}).observe({ entryTypes: ['gc'] });

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
process.on('SIGUSR2', () => {
  const { heapUsed } = process.memoryUsage();
  // Entries come to the observer in a turn of their own.
  setTimeout(() => {
    const before = scavenges;
    collect();
    const heapLeft = process.memoryUsage().heapUsed;
    process.stdout.write(`${JSON.stringify({ scavenges: before, heapUsed, heapLeft })}\n`);
  }, 20);
});
process.on('SIGTERM', () => {
  void Promise.all(servers.map((server) => server.close())).then(() => process.exit(0));
});

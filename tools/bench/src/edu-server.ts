/**
 * An edu behind each socket that is named, all in this thread. Prints nothing until it is asked to end; then, as one
 * line of JSON, what it used: collections of the young generation since the first client, resident memory.
 */
import { PerformanceObserver } from 'node:perf_hooks';
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
  const server = new VfioUserServer(deviceOf(bus, fn));
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

process.on('SIGUSR2', () => {
  process.stderr.write(`${JSON.stringify({ scavenges, rss: process.memoryUsage().rss })}\n`);
});
process.on('SIGTERM', () => {
  void Promise.all(servers.map((server) => server.close())).then(() => process.exit(0));
});

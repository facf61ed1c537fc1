/**
 * A virtual function of an NVMe drive that can be handed over. Arguments: `listen` or `incoming`, and a path. Says a line when it is
 * ready. A path on a line of its input is where to hand it over to; the answer is a line of JSON, the report or an error.
 */
import { createInterface } from 'node:readline';
import { deviceOf, messageOf, OpsRegistry, PciBus } from '@vfio/core';
import { EmulatedPciHost, NvmeController } from '@vfio/emulated';
import { nvmeDriver, nvmeVfioPciDriver } from '@vfio/nvme-vfio-pci';
import { VfioUserServer } from '@vfio/vfio-user';

const [mode = '', path = ''] = process.argv.slice(2);
const host = new EmulatedPciHost();
host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
const pf = host.add({ address: '0000:01:00.0', model: (ctx) => new NvmeController(ctx, { virtualFunctions: 1 }) });
const bus = new PciBus(host, { ops: new OpsRegistry() });
await bus.register(nvmeDriver());
await bus.register(nvmeVfioPciDriver());
await bus.bindOverride(pf, 'nvme');
await bus.sriovConfigure(pf, 1);
const vf = host.find('0000:01:00.1');
if (vf === undefined) throw new Error('the drive has no virtual function');
await bus.bindOverride(vf, 'nvme_vfio_pci');
const server = new VfioUserServer(deviceOf(bus, vf), {
  deferred: host.deferred,
  onDetach: () => {
    if (!server.isListening) setTimeout(() => process.exit(0));
  },
});
await server.listen(mode === 'incoming' ? { incoming: { path } } : path);
process.stdout.write('ready\n');
createInterface({ input: process.stdin }).on('line', (to) => {
  server.handover(to).then(
    (report) => process.stdout.write(`${JSON.stringify(report)}\n`),
    (error: unknown) => process.stdout.write(`${JSON.stringify({ error: messageOf(error) })}\n`),
  );
});

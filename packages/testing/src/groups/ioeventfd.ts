import type { EventTrigger, IoeventfdRequest, VfioDeviceClient } from '@vfio/core';
import { VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ROM_REGION_INDEX } from '@vfio/uapi';
import { bars, msixTable, refusal } from '../access.js';
import { equal, fails, notApplicable } from '../assert.js';
import type { Rule, RuleGroup } from '../contract.js';
import { CountingTrigger } from '../trigger.js';

const WIDTH = 4;

type Place = Pick<IoeventfdRequest, 'region' | 'offset'>;

const set = (device: VfioDeviceClient, at: Place, trigger: EventTrigger | null, more: Partial<IoeventfdRequest> = {}) =>
  device.ioeventfd({ ...at, width: WIDTH, data: 1n, trigger, ...more });

/** A rule of devices that take ioeventfds, with a place in a BAR for one. Nothing is ever stored there. */
const whereTaken =
  (rule: (device: VfioDeviceClient, at: Place, size: number, options: Parameters<Rule>[1]) => Promise<void>): Rule =>
  async (device, options) => {
    const table = await msixTable(device);
    const bar = (await bars(device)).find(({ index, io }) => !io && index !== table?.bar) ?? (await bars(device))[0];
    if (bar === undefined) notApplicable('the device has no BAR');
    // The last word: an MSI-X table that shares the BAR is hardly there.
    const at = { region: bar.index, offset: bar.size - WIDTH };
    if ((await refusal(set(device, at, null))) === 'ENOTTY') notApplicable('there are no ioeventfds here');
    await rule(device, at, bar.size, options);
  };

export const ioeventfd: RuleGroup = {
  group: 'ioeventfd',
  rules: {
    'one outside a BAR, past its end, over the MSI-X table or of an odd width is refused with EINVAL': whereTaken(
      async (device, at, size) => {
        const table = await msixTable(device);
        const bad: [what: string, where: Place, more?: Partial<IoeventfdRequest>][] = [
          ['in config space', { region: VFIO_PCI_CONFIG_REGION_INDEX, offset: 0 }],
          ['in the ROM', { region: VFIO_PCI_ROM_REGION_INDEX, offset: 0 }],
          ['past the end', { ...at, offset: size }],
          ['across the end', { ...at, offset: size - WIDTH / 2 }],
          ['of three bytes', at, { width: 3 as 4 }],
        ];
        if (table !== undefined) {
          bad.push(['over the MSI-X table', { region: table.bar, offset: table.offset }]);
          bad.push(['over its last word', { region: table.bar, offset: table.offset + table.size - WIDTH }]);
        }
        for (const [what, where, more] of bad)
          await fails(() => set(device, where, new CountingTrigger(), more), 'EINVAL', `an ioeventfd ${what}`);
      },
    ),
    'the same store again is refused with EEXIST, and none can be removed that is not there: ENODEV': whereTaken(
      async (device, at) => {
        await fails(() => set(device, at, null), 'ENODEV', 'removing what was never set');
        await set(device, at, new CountingTrigger());
        await fails(() => set(device, at, new CountingTrigger()), 'EEXIST', 'the same store');
        await set(device, at, new CountingTrigger(), { data: 2n });
        await set(device, at, null);
        await fails(() => set(device, at, null), 'ENODEV', 'removing it twice');
        await set(device, at, null, { data: 2n });
      },
    ),
    'its trigger is let go of once: when it is removed, when it is refused, at close': whereTaken(
      async (device, at) => {
        const [removed, refused, closed] = [new CountingTrigger(), new CountingTrigger(), new CountingTrigger()];
        await set(device, at, removed);
        await fails(() => set(device, at, refused), 'EEXIST', 'the same store');
        equal(`${removed.releases} ${refused.releases}`, '0 1', 'releases of the one in use and the refused one');
        await set(device, at, null);
        await set(device, at, closed);
        equal(`${removed.releases} ${closed.releases}`, '1 0', 'releases of the removed one and the one in use');
        await device.close();
        equal(closed.releases, 1, 'releases after close');
      },
    ),
  },
};

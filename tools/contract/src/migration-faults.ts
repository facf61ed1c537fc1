import { type ContractOptions, contractCases } from '@vfio/testing';
import {
  allowsEveryArc,
  changesByte,
  dropsByte,
  type Fault,
  losesInterrupt,
  losesPage,
  resetsNothing,
  streams,
} from './faulty-client.js';

/** What can be wrong with a device that migrates, and the rule of the suite that is to catch it. */
type MigrationFault = readonly [what: string, fault: Fault, rule: string];

const MOVED = 'what one device saves another loads, in pieces of any size, and has the same state then';

export const MIGRATION_FAULTS: readonly MigrationFault[] = [
  ['a byte of the stream that is lost', streams(dropsByte), MOVED],
  ['a byte of the stream that is changed', streams(changesByte), MOVED],
  [
    'an interrupt that is lost',
    losesInterrupt,
    'a device that was stopped, or loaded, works on: what it writes arrives, and its interrupts come',
  ],
  [
    'a reset that does not lead to RUNNING',
    resetsNothing,
    'a reset in any state leads to RUNNING, and ends the stream with ENODEV',
  ],
  [
    'an arc that there is not',
    allowsEveryArc,
    'a state that the device lacks, and a way that there is not, are refused with EINVAL; state and stream go on',
  ],
];

/** Of a device that writes memory. */
export const LOST_PAGE: MigrationFault = [
  'a dirty page that is lost',
  losesPage,
  'no page that the device writes under load is missed: the whole memory is compared with reports of each page size',
];

/** Runs the case of one rule. Undefined where the suite has no such rule. */
export function runFaulty(fault: Fault, rule: string, options: Omit<ContractOptions, 'name'>) {
  const cases = contractCases({
    ...options,
    name: 'faulty',
    async open() {
      const { device, close } = await options.open();
      return { device: fault(device), close };
    },
  });
  return cases.find(({ name }) => name === rule)?.run();
}

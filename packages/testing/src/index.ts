/**
 * The contract suite: rules that every VFIO variant driver keeps, on whatever base and over whatever distance. The caller
 * hands in how its device is opened.
 *
 * @packageDocumentation
 */
export {
  type ContractCase,
  type ContractOptions,
  type ContractSubject,
  type DeviceDma,
  type DeviceMemory,
  type DeviceState,
  type DeviceWorkload,
  subject,
} from './contract.js';
export { type CaseContext, contractCases, describeVariantDriver, type Runner } from './suite.js';

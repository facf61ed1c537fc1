export type { DecodedField } from './cap-fields.js';
export {
  type DecodedBar,
  type DecodedCapability,
  type DecodedConfigSpace,
  decodeConfigSpace,
} from './config-space.js';

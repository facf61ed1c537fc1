/** What the info calls return. `@vfio/uapi` has these types, since it makes and reads their bytes too. */
export type {
  DeviceInfo,
  HotResetDependent,
  HotResetInfo,
  InfoCap as DeviceCap,
  IrqInfo,
  RegionCap,
  RegionInfo,
  RegionRange,
} from '@vfio/uapi';

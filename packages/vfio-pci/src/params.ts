/** The parameters of the generic driver: the kernel's module parameters of `vfio-pci`, with its defaults. */
export interface VfioPciParams {
  /**
   * Ids that the driver takes without being asked, `vendor:device[:subvendor[:subdevice[:class[:mask]]]]` in hex, by comma.
   * A bad one is passed over with a warning. At most 1023 characters.
   */
  readonly ids: string;
  /** INTx is masked at the interrupt controller, not at the device. Latched for each device when it is probed. */
  nointxmask: boolean;
  /** Legacy VGA ranges are not offered. */
  readonly disableVga: boolean;
  /** Devices stay in D0 while nobody uses them. Latched for each device when it is probed. */
  disableIdleD3: boolean;
  /** VFs may be created. Read each time somebody asks for them. */
  enableSriov: boolean;
  /** Devices on the denylist are taken too. */
  readonly disableDenylist: boolean;
}

/** The longest `ids` that the kernel's parameter takes. */
export const MAX_IDS_LENGTH = 1023;

export const DEFAULT_PARAMS: VfioPciParams = {
  ids: '',
  nointxmask: false,
  disableVga: false,
  disableIdleD3: false,
  enableSriov: false,
  disableDenylist: false,
};

/**
 * What the generic driver latches for each device at probe: the kernel's `nointxmask`, `disable_idle_d3` and
 * `disable_vga`. Variant drivers do not pass them, as in the kernel, where they never see them.
 */
export interface VfioPciCoreParams {
  /** INTx is not masked at the device but at the interrupt controller; the device is not probed for PCI 2.3. */
  readonly nointxmask: boolean;
  /** The function stays in D0 while nobody uses it. */
  readonly disableIdleD3: boolean;
  /** Legacy VGA ranges are not offered. */
  readonly disableVga: boolean;
}

export const DEFAULT_CORE_PARAMS: VfioPciCoreParams = Object.freeze({
  nointxmask: false,
  disableIdleD3: false,
  disableVga: false,
});

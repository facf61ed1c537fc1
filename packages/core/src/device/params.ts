import { errnoError } from '@vfio/uapi';
import { IDS_PARAMETER_MAX } from '../pci/ids.js';

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

/** Boolean parameters of vfio-pci; which of them may be written while the module is loaded. */
const SWITCHES = {
  nointxmask: { writable: true },
  disableVga: { writable: false },
  disableIdleD3: { writable: true },
  enableSriov: { writable: true },
  disableDenylist: { writable: false },
} as const;

/** Name of a boolean parameter: the kernel's, in camelCase. */
export type ModuleSwitch = keyof typeof SWITCHES;

/** The parameters as they are when the driver is made. What is left out has the kernel's default: no ids, all switches off. */
export interface ModuleParamsInit {
  /**
   * Ids that the driver takes without being asked, `vendor:device[:subvendor[:subdevice[:class[:mask]]]]` in hex, by comma.
   * At most 1023 characters.
   */
  readonly ids?: string;
  /** INTx is masked at the interrupt controller, not at the device. */
  readonly nointxmask?: boolean;
  /** Legacy VGA ranges are not offered. */
  readonly disableVga?: boolean;
  /** Functions stay in D0 while nobody uses them. */
  readonly disableIdleD3?: boolean;
  /** Virtual functions may be created. */
  readonly enableSriov?: boolean;
  /** Devices on the denylist are taken too. */
  readonly disableDenylist?: boolean;
}

/**
 * The module parameters of vfio-pci with their life: `ids` counts once, `disableVga` and `disableDenylist` are set when the
 * driver is made, the others may change at any time. `enableSriov` is read at each use; `nointxmask`, `disableIdleD3` and
 * `disableVga` are latched for each device at probe ({@link latch}), so a change affects only devices bound later.
 */
export class VfioPciModuleParams {
  readonly ids: string;
  readonly #switches: Record<ModuleSwitch, boolean>;

  /** @throws ENOSPC for `ids` of more than 1023 characters, as the kernel's string parameters have it. */
  constructor(init: ModuleParamsInit = {}) {
    this.ids = init.ids ?? '';
    if (this.ids.length > IDS_PARAMETER_MAX) {
      throw errnoError('ENOSPC', `ids has ${this.ids.length} characters; at most ${IDS_PARAMETER_MAX} are allowed`, {
        op: 'ids',
      });
    }
    this.#switches = {
      nointxmask: init.nointxmask ?? false,
      disableVga: init.disableVga ?? false,
      disableIdleD3: init.disableIdleD3 ?? false,
      enableSriov: init.enableSriov ?? false,
      disableDenylist: init.disableDenylist ?? false,
    };
  }

  get(name: ModuleSwitch): boolean {
    return this.#switches[name];
  }

  /**
   * Changes a parameter, as a write to `/sys/module/vfio_pci/parameters` does.
   *
   * @param value a boolean, or a text by the kernel's rules: y, Y, 1, t, T, on; n, N, 0, f, F, off.
   * @throws ENOENT (no such parameter), EACCES (set only when the driver is made), EINVAL (not a boolean).
   */
  set(name: string, value: boolean | string): void {
    if (!isSwitch(name))
      throw errnoError('ENOENT', `no parameter "${name}"; known are ${Object.keys(SWITCHES).join(', ')}`, { op: name });
    if (!SWITCHES[name].writable)
      throw errnoError('EACCES', `parameter "${name}" can only be set when the driver is made`, { op: name });
    this.#switches[name] = typeof value === 'boolean' ? value : parseBoolean(name, value);
  }

  /** What a device bound now goes by. */
  latch(): VfioPciCoreParams {
    return {
      nointxmask: this.#switches.nointxmask,
      disableIdleD3: this.#switches.disableIdleD3,
      disableVga: this.#switches.disableVga,
    };
  }
}

function isSwitch(name: string): name is ModuleSwitch {
  return Object.hasOwn(SWITCHES, name);
}

/** `kstrtobool`: the first character decides, after `o` the second. @throws EINVAL */
function parseBoolean(name: string, text: string): boolean {
  if (/^([yYtT1]|[oO][nN])/.test(text)) return true;
  if (/^([nNfF0]|[oO][fF])/.test(text)) return false;
  throw errnoError('EINVAL', `parameter "${name}": "${text}" is not a boolean`, { op: name });
}

import {
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V2,
  PCI_CAP_ID_EXP,
  PCI_EXP_DEVCAP,
  PCI_EXP_DEVCAP_EXT_TAG,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCAP_RBER,
  PCI_EXP_DEVCAP2,
  PCI_EXP_DEVCAP2_ARI,
  PCI_EXP_DEVCAP2_COMP_TMOUT_DIS,
  PCI_EXP_DEVCAP2_LTR,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_AUX_PME,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXP_DEVCTL_CERE,
  PCI_EXP_DEVCTL_EXT_TAG,
  PCI_EXP_DEVCTL_FERE,
  PCI_EXP_DEVCTL_NFERE,
  PCI_EXP_DEVCTL_NOSNOOP_EN,
  PCI_EXP_DEVCTL_PAYLOAD,
  PCI_EXP_DEVCTL_READRQ,
  PCI_EXP_DEVCTL_READRQ_512B,
  PCI_EXP_DEVCTL_RELAX_EN,
  PCI_EXP_DEVCTL_URRE,
  PCI_EXP_DEVCTL2,
  PCI_EXP_DEVCTL2_ARI,
  PCI_EXP_DEVCTL2_COMP_TIMEOUT,
  PCI_EXP_DEVCTL2_COMP_TMOUT_DIS,
  PCI_EXP_DEVCTL2_LTR_EN,
  PCI_EXP_DEVSTA,
  PCI_EXP_DEVSTA_CED,
  PCI_EXP_DEVSTA_FED,
  PCI_EXP_DEVSTA_NFED,
  PCI_EXP_DEVSTA_URD,
  PCI_EXP_FLAGS,
  PCI_EXP_FLAGS_SLOT,
  PCI_EXP_LNKCAP,
  PCI_EXP_LNKCAP_ASPM_L0S,
  PCI_EXP_LNKCAP_DLLLARC,
  PCI_EXP_LNKCAP2,
  PCI_EXP_LNKCTL,
  PCI_EXP_LNKCTL_ASPMC,
  PCI_EXP_LNKCTL_CCC,
  PCI_EXP_LNKCTL_ES,
  PCI_EXP_LNKCTL_LD,
  PCI_EXP_LNKCTL_RCB,
  PCI_EXP_LNKCTL2,
  PCI_EXP_LNKSTA,
  PCI_EXP_LNKSTA_DLLLA,
  PCI_EXP_LNKSTA_NLW_SHIFT,
  PCI_EXP_SLTCAP,
  PCI_EXP_SLTCAP_HPC,
  PCI_EXP_SLTCAP_HPS,
  PCI_EXP_SLTCTL,
  PCI_EXP_SLTSTA,
  PCI_EXP_SLTSTA_DLLSC,
  PCI_EXP_SLTSTA_PDC,
  PCI_EXP_TYPE_DOWNSTREAM,
  PCI_EXP_TYPE_ENDPOINT,
  PCI_EXP_TYPE_LEG_END,
  PCI_EXP_TYPE_RC_EC,
  PCI_EXP_TYPE_RC_END,
  PCI_EXP_TYPE_ROOT_PORT,
  PCI_EXP_TYPE_UPSTREAM,
} from '@vfio/uapi';
import type { ConfigSpace } from './config-space.js';

/** What kind of PCI Express function it is. */
export type ExpressType =
  | 'endpoint'
  | 'legacy'
  | 'rc-integrated'
  | 'rc-event-collector'
  | 'root-port'
  | 'upstream'
  | 'downstream';

const TYPES: Readonly<Record<ExpressType, number>> = {
  endpoint: PCI_EXP_TYPE_ENDPOINT,
  legacy: PCI_EXP_TYPE_LEG_END,
  'rc-integrated': PCI_EXP_TYPE_RC_END,
  'rc-event-collector': PCI_EXP_TYPE_RC_EC,
  'root-port': PCI_EXP_TYPE_ROOT_PORT,
  upstream: PCI_EXP_TYPE_UPSTREAM,
  downstream: PCI_EXP_TYPE_DOWNSTREAM,
};

/** PCI Express capability, version 2. */
export interface ExpressOptions {
  readonly type?: ExpressType;
  readonly flr?: boolean;
  /** log2(bytes / 128) of the largest payload, 0 to 5. Default 0: 128 bytes. */
  readonly maxPayload?: number;
  /** Link speed code, 1 (2.5 GT/s) to 5 (32 GT/s). Default 3. */
  readonly speed?: number;
  /** Link width, 1 to 32 lanes. Default 4. */
  readonly width?: number;
  /** A downstream port with a hot-plug slot. */
  readonly slot?: boolean;
  /** Forwards ARI (downstream ports). */
  readonly ariForwarding?: boolean;
  readonly ltr?: boolean;
}

/** @param onFlr software set Initiate Function Level Reset. */
export function addExpress(config: ConfigSpace, options: ExpressOptions, onFlr: () => void): number {
  const type = options.type ?? 'endpoint';
  const isPort = type === 'root-port' || type === 'downstream';
  const hasLink = type !== 'rc-integrated' && type !== 'rc-event-collector';
  const hasSlot = isPort && options.slot === true;
  const flr = options.flr === true;
  const speed = options.speed ?? 3;
  const width = options.width ?? 4;
  const at = config.addCapability(PCI_CAP_ID_EXP, isPort ? 0x3c : PCI_CAP_EXP_ENDPOINT_SIZEOF_V2);
  config.define(at + PCI_EXP_FLAGS, 2, 2 | (TYPES[type] << 4) | (hasSlot ? PCI_EXP_FLAGS_SLOT : 0));
  config.define(
    at + PCI_EXP_DEVCAP,
    4,
    (options.maxPayload ?? 0) | PCI_EXP_DEVCAP_EXT_TAG | PCI_EXP_DEVCAP_RBER | (flr ? PCI_EXP_DEVCAP_FLR : 0),
  );
  config.define(
    at + PCI_EXP_DEVCTL,
    2,
    PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ_512B,
    {
      rw:
        PCI_EXP_DEVCTL_CERE |
        PCI_EXP_DEVCTL_NFERE |
        PCI_EXP_DEVCTL_FERE |
        PCI_EXP_DEVCTL_URRE |
        PCI_EXP_DEVCTL_RELAX_EN |
        PCI_EXP_DEVCTL_PAYLOAD |
        PCI_EXP_DEVCTL_EXT_TAG |
        PCI_EXP_DEVCTL_NOSNOOP_EN |
        PCI_EXP_DEVCTL_READRQ |
        (flr ? PCI_EXP_DEVCTL_BCR_FLR : 0),
      sticky: PCI_EXP_DEVCTL_AUX_PME,
      // PCIe Base 6.6.2: Max_Payload_Size survives a function-level reset, its neighbours on the link need it.
      flrKeep: PCI_EXP_DEVCTL_PAYLOAD,
    },
  );
  config.define(at + PCI_EXP_DEVSTA, 2, 0, {
    w1c: PCI_EXP_DEVSTA_CED | PCI_EXP_DEVSTA_NFED | PCI_EXP_DEVSTA_FED | PCI_EXP_DEVSTA_URD,
  });
  if (flr)
    config.onWrite(at + PCI_EXP_DEVCTL, () => {
      if ((config.get(at + PCI_EXP_DEVCTL, 2) & PCI_EXP_DEVCTL_BCR_FLR) === 0) return;
      config.change(at + PCI_EXP_DEVCTL, 2, 0, PCI_EXP_DEVCTL_BCR_FLR); // reads as 0 always
      onFlr();
    });
  if (hasLink) {
    config.define(
      at + PCI_EXP_LNKCAP,
      4,
      speed | (width << PCI_EXP_LNKSTA_NLW_SHIFT) | PCI_EXP_LNKCAP_ASPM_L0S | (isPort ? PCI_EXP_LNKCAP_DLLLARC : 0),
    );
    const link = PCI_EXP_LNKCTL_ASPMC | PCI_EXP_LNKCTL_CCC | PCI_EXP_LNKCTL_ES;
    config.define(at + PCI_EXP_LNKCTL, 2, 0, {
      rw: link | (isPort ? PCI_EXP_LNKCTL_LD : PCI_EXP_LNKCTL_RCB),
      // PCIe Base 6.6.2: what both ends of the link agreed on survives a function-level reset.
      flrKeep: link | PCI_EXP_LNKCTL_RCB,
    });
    config.define(
      at + PCI_EXP_LNKSTA,
      2,
      speed | (width << PCI_EXP_LNKSTA_NLW_SHIFT) | (isPort ? PCI_EXP_LNKSTA_DLLLA : 0),
    );
    config.define(at + PCI_EXP_LNKCAP2, 4, ((1 << speed) - 1) << 1);
    config.define(at + PCI_EXP_LNKCTL2, 2, speed, { sticky: 0xffff });
  }
  if (hasSlot) {
    config.define(at + PCI_EXP_SLTCAP, 4, PCI_EXP_SLTCAP_HPS | PCI_EXP_SLTCAP_HPC);
    config.define(at + PCI_EXP_SLTCTL, 2, 0, { rw: 0x1fff });
    config.define(at + PCI_EXP_SLTSTA, 2, 0, { w1c: PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_DLLSC });
  }
  config.define(
    at + PCI_EXP_DEVCAP2,
    4,
    PCI_EXP_DEVCAP2_COMP_TMOUT_DIS |
      (options.ariForwarding === true ? PCI_EXP_DEVCAP2_ARI : 0) |
      (options.ltr === true ? PCI_EXP_DEVCAP2_LTR : 0),
  );
  config.define(at + PCI_EXP_DEVCTL2, 2, 0, {
    rw:
      PCI_EXP_DEVCTL2_COMP_TIMEOUT |
      PCI_EXP_DEVCTL2_COMP_TMOUT_DIS |
      (options.ariForwarding === true ? PCI_EXP_DEVCTL2_ARI : 0) |
      (options.ltr === true ? PCI_EXP_DEVCTL2_LTR_EN : 0),
  });
  return at;
}

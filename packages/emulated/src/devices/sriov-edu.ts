import type { DeviceModel, FunctionContext } from '../model.js';
import { EDU, Edu } from './edu.js';

/** Device ids of {@link SriovEdu} and its virtual functions, beside edu's 11e8. */
export const SRIOV_EDU_DEVICE = 0x11e9;
export const SRIOV_EDU_VF_DEVICE = 0x11ea;

/** What a {@link SriovEdu} is like. */
export interface SriovEduOptions {
  /** 1 to 255. Default 4. */
  readonly totalVfs?: number;
}

/** An edu behind PCI Express with SR-IOV: each virtual function is an edu of its own. */
export class SriovEdu implements DeviceModel {
  /** The physical function's own edu. */
  readonly edu: Edu;

  constructor(ctx: FunctionContext, options: SriovEduOptions = {}) {
    this.edu = new Edu(ctx, { device: SRIOV_EDU_DEVICE, express: true });
    ctx.aer();
    ctx.ari();
    ctx.sriov({
      totalVfs: options.totalVfs ?? 4,
      device: SRIOV_EDU_VF_DEVICE,
      bars: { 0: { size: EDU.BAR_SIZE } },
      model: (vf) => new Edu(vf, { device: SRIOV_EDU_VF_DEVICE, express: true }),
    });
  }

  reset(): void {
    this.edu.reset();
  }

  removed(): void {
    this.edu.removed();
  }
}

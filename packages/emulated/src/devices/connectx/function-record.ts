import { Capabilities, type CapabilityValues } from './capabilities.js';
import type { HcaFunction } from './hca.js';
import { type PageNeeds, PageSupply } from './page-supply.js';

/**
 * What the firmware keeps of a function, whether or not the function is there: a virtual one can be enabled, given pages
 * and configured before software lets it appear.
 */
export class FunctionRecord {
  /** 0: the physical function; n: virtual function n - 1. */
  readonly id: number;
  readonly vhcaId: number;
  readonly capabilities: Capabilities;
  readonly pages: PageSupply;
  /** The physical function has enabled this one; always so for itself. */
  isAdmitted: boolean;
  /** The function, while it is there. */
  live: HcaFunction | undefined;

  constructor(id: number, capabilities: CapabilityValues, pages: PageNeeds) {
    this.id = id;
    this.vhcaId = id;
    this.capabilities = new Capabilities(capabilities);
    this.pages = new PageSupply(pages);
    this.isAdmitted = id === 0;
  }

  /** Cut off by the physical function: nothing of it runs, its pages stay until they are taken. */
  shutOut(): void {
    this.isAdmitted = false;
    this.live?.stop();
    this.pages.setPhase('off');
  }

  /** The firmware starts anew: whatever software lent is its own again. */
  forget(): void {
    this.pages.reset();
    this.capabilities.reset();
    this.isAdmitted = this.id === 0;
  }
}

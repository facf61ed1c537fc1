import { ADAPTER_PAGE } from './constants.js';

/** Pages of software's memory that one after the other hold a queue. */
export interface PageList {
  readonly pages: readonly number[];
  /** log2 of a page's bytes, counted in pages of the adapter. */
  readonly logPageSize: number;
}

/** The bus address of byte `at`, counted from the start of the first page. */
export function addressAt({ pages, logPageSize }: PageList, at: number): number {
  const page = ADAPTER_PAGE * 2 ** logPageSize;
  return (pages[Math.floor(at / page)] ?? 0) + (at % page);
}

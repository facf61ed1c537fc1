import { badParameter, type Call } from '../command.js';
import { ADAPTER_PAGE } from '../constants.js';
import { getNumber64 } from '../fields.js';

/** Where the addresses of pages begin in the input of the commands that make queues and keys: behind the context. */
export const LIST = 272;

/** The addresses of `count` pages of `page` bytes behind a command. @throws CommandError where one is not such a page's. */
export function readPages(call: Call, count: number, page = ADAPTER_PAGE): number[] {
  call.requireInput(LIST + 8 * count);
  const pages: number[] = [];
  for (let i = 0; i < count; i++) {
    const address = getNumber64(call.input, LIST + 8 * i);
    if (address === undefined || address % page !== 0) throw badParameter('page', address ?? 0);
    pages.push(address);
  }
  return pages;
}

/** How many pages of a queue hold `bytes`. */
export function pagesOf(bytes: number, logPageSize: number): number {
  return Math.ceil(bytes / (ADAPTER_PAGE * 2 ** logPageSize));
}

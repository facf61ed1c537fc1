import { badParameter, type Command, CommandError, command, SYNDROME } from '../command.js';
import { OPCODE, STATUS } from '../constants.js';
import { getNumber64 } from '../fields.js';
import { MemoryKey } from '../memory-key.js';
import { LIST, readPages } from './page-list.js';
import { initialized } from './states.js';

const CONTEXT = 0x80;
const INDEX = { mkey_index: [0x48, 24] } as const;

/** Translations are counted in octwords: two 64-bit addresses each. */
const PAGES_PER_OCTWORD = 2;

/** How a key's addresses become the bus's: only lists of pages (MTT) are modelled. */
const ACCESS_MODE_MTT = 1;

/** Memory that queues and commands may reach. */
export const memoryKeyCommands: readonly Command[] = [
  command(
    OPCODE.CREATE_MKEY,
    'CREATE_MKEY',
    {
      bytes: LIST,
      fields: {
        pg_access: [0x60, 1],
        mkey_umem_valid: [0x61, 1],
        free: [CONTEXT + 0x01, 1],
        access_mode_4_2: [CONTEXT + 0x03, 3],
        umr_en: [CONTEXT + 0x10, 1],
        a: [CONTEXT + 0x11, 1],
        rw: [CONTEXT + 0x12, 1],
        rr: [CONTEXT + 0x13, 1],
        lw: [CONTEXT + 0x14, 1],
        lr: [CONTEXT + 0x15, 1],
        access_mode_1_0: [CONTEXT + 0x16, 2],
        qpn: [CONTEXT + 0x20, 24],
        mkey_7_0: [CONTEXT + 0x38, 8],
        length64: [CONTEXT + 0x60, 1],
        pd: [CONTEXT + 0x68, 24],
        start_addr: [CONTEXT + 0x80, 64],
        len: [CONTEXT + 0xc0, 64],
        bsf_octword_size: [CONTEXT + 0x100, 32],
        translations_octword_size: [CONTEXT + 0x1a0, 32],
        relaxed_ordering_read: [CONTEXT + 0x1d9, 1],
        log_page_size: [CONTEXT + 0x1da, 6],
        translations_octword_actual_size: [0x300, 32],
      },
    },
    16,
    (call) => {
      const fn = initialized(call);
      if (call.get('mkey_umem_valid') !== 0) throw badParameter('mkey_umem_valid', 1);
      const mode = (call.get('access_mode_4_2') << 2) | call.get('access_mode_1_0');
      if (mode !== ACCESS_MODE_MTT) throw badParameter('access mode', mode);
      if (call.get('free') !== 0) throw badParameter('free', 1);
      if (call.get('bsf_octword_size') !== 0) throw badParameter('bsf_octword_size', call.get('bsf_octword_size'));
      // A key belongs to one queue pair, or to all: only the latter is modelled.
      if (call.get('qpn') !== 0xffffff) throw badParameter('qpn', call.get('qpn'));
      const pd = call.get('pd');
      fn.protectionDomains.get(pd);
      const octwords = call.get('translations_octword_size');
      if (octwords === 0 || call.get('translations_octword_actual_size') !== octwords)
        throw badParameter('translations_octword_actual_size', call.get('translations_octword_actual_size'));
      const logPageSize = call.get('log_page_size');
      if (logPageSize < 12 || logPageSize > 30) throw badParameter('log_page_size', logPageSize);
      const start = getNumber64(call.input, 0x10 + 0x10);
      const length = getNumber64(call.input, 0x10 + 0x18);
      if (start === undefined || length === undefined || length === 0 || call.get('length64') !== 0)
        throw badParameter('len', length ?? 0);
      call.requireInput(LIST + 16 * octwords);
      const page = 2 ** logPageSize;
      const count = Math.ceil(((start % page) + length) / page);
      if (count > octwords * PAGES_PER_OCTWORD)
        throw new CommandError(STATUS.BAD_PARAM, SYNDROME.BAD_VALUE, `${count} pages in ${octwords} octwords`);
      // With pg_access the low bits of an address say what may be done with the page; without it they are reserved.
      if (call.get('pg_access') !== 0) throw badParameter('pg_access', 1);
      const pages = readPages(call, count, page);
      const number = fn.create(
        fn.memoryKeys,
        (index) =>
          new MemoryKey({
            key: ((index << 8) | call.get('mkey_7_0')) >>> 0,
            pd,
            start,
            length,
            logPageSize,
            pages,
            localRead: call.get('lr') === 1,
            localWrite: call.get('lw') === 1,
          }),
      );
      call.set(INDEX.mkey_index, number);
    },
  ),
  command(OPCODE.DESTROY_MKEY, 'DESTROY_MKEY', { bytes: 16, fields: INDEX }, 16, (call) => {
    const fn = initialized(call);
    fn.destroy(fn.memoryKeys, call.get('mkey_index'));
  }),
];

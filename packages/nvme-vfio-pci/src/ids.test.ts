import { tableToAliases } from '@vfio/core';
import { expect, test } from 'vitest';
import { ids } from './ids.js';

test('the table is one alias by class: any vendor, mass storage, non-volatile memory, NVM Express', () => {
  expect(tableToAliases(ids)).toEqual({ aliases: ['vfio_pci:v*d*sv*sd*bc01sc08i02*'], warnings: [] });
});

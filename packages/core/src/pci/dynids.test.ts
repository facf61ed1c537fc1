import { describe, expect, test } from 'vitest';
import { DynamicIds } from './dynids.js';
import {
  type PciDeviceId,
  parseNewId,
  parseRemoveId,
  pciDevice,
  pciDeviceClass,
  pciDeviceId,
  pciDeviceSub,
} from './ids.js';

const errno = (name: string): unknown => expect.objectContaining({ errno: name });
const vfioTable = [pciDeviceId({ overrideOnly: 1 })];
const dynids = (table: readonly PciDeviceId[] = [], ...ids: string[]): DynamicIds => {
  const result = new DynamicIds('drv', table);
  for (const id of ids) result.addNew(parseNewId(id));
  return result;
};

describe('new_id', () => {
  test('[1.2.9c] an id that an ordinary row matches already is refused with EEXIST', () => {
    expect(() => dynids([pciDevice(1, 2)], '1 2')).toThrow(errno('EEXIST'));
    expect(() => dynids([pciDeviceId({ vendor: 1 })], '1 2 3 4')).toThrow(errno('EEXIST'));
  });

  test('[1.2.9c] override-only rows are left out of the test, or the match-all table would refuse every id', () => {
    expect(dynids(vfioTable, '1 2').ids).toHaveLength(1);
  });

  test('[1.2.9d] an id that a dynamic id matches already is refused with EEXIST', () => {
    expect(() => dynids(vfioTable, '1 2', '1 2')).toThrow(errno('EEXIST'));
    expect(() => dynids(vfioTable, '1 2', '1 2 3 4')).toThrow(errno('EEXIST'));
    expect(dynids(vfioTable, '1 2 3 4', '1 2').ids).toHaveLength(2);
  });

  test('a row for one subsystem or class does not stand for all of them', () => {
    expect(dynids([pciDeviceSub(1, 2, 3, 4)], '1 2').ids).toHaveLength(1);
    expect(dynids([pciDeviceClass(0x020000, 0xff0000)], '1 2').ids).toHaveLength(1);
    expect(() => dynids([pciDeviceClass(0x020000, 0xff0000)], '1 2 3 4 020000')).toThrow(errno('EEXIST'));
  });

  test('[1.2.9e] with all seven fields a duplicate is taken', () => {
    expect(dynids([pciDevice(1, 2)], '1 2 3 4 0 0 0').ids).toHaveLength(1);
  });

  test('[1.2.9f] driver_data must be that of some row where there is a table, or EINVAL', () => {
    const table = [pciDeviceId({ vendor: 9, driverData: 5 })];
    expect(dynids(table, '1 2 3 4 0 0 5').ids[0]).toMatchObject({ driverData: 5 });
    expect(() => dynids(table, '1 2 3 4 0 0 6')).toThrow(errno('EINVAL'));
    expect(() => dynids(table, '1 2')).toThrow(errno('EINVAL'));
    expect(() => dynids(vfioTable, '1 2 3 4 0 0 1')).toThrow(errno('EINVAL'));
    expect(dynids([], '1 2 3 4 0 0 6').ids[0]).toMatchObject({ driverData: 6 });
  });

  test('a refused id changes nothing', () => {
    const list = dynids(vfioTable, '1 2');
    const before = list.ids;
    expect(() => list.addNew(parseNewId('1 2'))).toThrow(errno('EEXIST'));
    expect(list.ids).toBe(before);
  });

  test('[1.2.2] dynamic ids carry override_only 0 whatever was given', () => {
    const list = dynids();
    list.add(pciDeviceId({ vendor: 1, overrideOnly: 1 }));
    expect(list.ids[0]).toMatchObject({ vendor: 1, overrideOnly: 0 });
  });
});

describe('remove_id', () => {
  const remove = (list: DynamicIds, text: string): readonly PciDeviceId[] => {
    list.remove(parseRemoveId(text));
    return list.ids;
  };

  test('[1.2.10c] vendor and device must be equal, a subsystem that is not written is any', () => {
    expect(remove(dynids(vfioTable, '1 2 3 4'), '1 2')).toEqual([]);
    expect(remove(dynids(vfioTable, '1 2 3 4'), '1 2 3 4')).toEqual([]);
    for (const text of ['1 3', '2 2', '1 2 4', '1 2 3 5', 'ffffffff ffffffff']) {
      expect(() => remove(dynids(vfioTable, '1 2 3 4'), text)).toThrow(errno('ENODEV'));
    }
  });

  test('[1.2.10c] a subsystem that is written does not remove an id for any subsystem', () => {
    expect(() => remove(dynids(vfioTable, '1 2'), '1 2 3 4')).toThrow(errno('ENODEV'));
  });

  test("[1.2.10d] the class must be equal under the written mask, not the id's", () => {
    expect(remove(dynids(vfioTable, '1 2 3 4 20000 ff0000'), '1 2 3 4 30000')).toEqual([]);
    expect(() => remove(dynids(vfioTable, '1 2 3 4 20000 0'), '1 2 3 4 30000 ff0000')).toThrow(errno('ENODEV'));
    expect(remove(dynids(vfioTable, '1 2 3 4 20000 0'), '1 2 3 4 2ffff ff0000')).toEqual([]);
  });

  test('[1.2.10e] only the first one is removed', () => {
    const list = dynids(vfioTable, '1 2 3 4 0 0 0', '1 2 5 6 0 0 0');
    expect(remove(list, '1 2')).toEqual([pciDeviceSub(1, 2, 5, 6)]);
  });

  test('[1.2.10f] none is ENODEV', () => {
    expect(() => remove(dynids(), '1 2')).toThrow(errno('ENODEV'));
  });
});

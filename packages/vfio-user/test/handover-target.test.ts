import { closeFd, dupFd, eventfdCreate, eventfdRead, memfdCreate, socketpair } from '@vfio/native';
import { describe, expect, test } from 'vitest';
import {
  encodeOffer,
  encodeTakeover,
  type Offer,
  type Shape,
  shapeOf,
  type Takeover,
} from '../src/handover/documents.js';
import { HANDOVER } from '../src/handover/protocol.js';
import { waiting } from './helpers/handover.js';
import { movable } from './helpers/movable.js';
import { message, RawClient, u32, until } from './helpers/raw-client.js';
import { cleanup, openFds } from './helpers/serve.js';

/** What another server would say of its device and its client. */
async function offerOf(): Promise<{ shape: Shape; offer: Offer; takeover: Takeover }> {
  const { device } = await movable();
  const opened = await device.open();
  const shape = shapeOf(opened);
  const config = device.config!.save();
  await opened.close();
  const offer: Offer = {
    shape,
    agreement: {
      minor: 0,
      compat: { peer: 'other', errorsAsData: false, invertResetFlag: false, mayBeLegacyQemu: false },
      limits: {
        maxSendFds: 1,
        maxReceiveFds: 1,
        maxSendData: 4096,
        maxReceiveData: 4096,
        maxDmaMaps: 10,
        twinSocket: false,
        writeMultiple: false,
      },
    },
    hasTwin: false,
    hasListener: false,
    file: null,
  };
  const irqs = { type: null, vectors: [], allocated: 0, intxMasked: false, unmask: null, err: null, req: null };
  const takeover = { config, irqs, irqsGiven: [], chunked: null, lastId: 0, isLegacyDma: null };
  return { shape, offer, takeover };
}

/** A server that waits, and another one that says what the test wants. */
async function played() {
  const target = await movable();
  const b = await waiting(target);
  const documents = await offerOf();
  const token = eventfdCreate(1);
  const [theirs, ours] = socketpair();
  cleanup(() => [token, theirs].forEach(closeFd));
  const client = new RawClient(ours);
  cleanup(() => client.close());
  const connect = () => {
    const raw = RawClient.connect(b.path);
    cleanup(() => raw.close());
    /** The other one's answer: empty, or the sentence of its error. */
    const say = async (command: number, payload: Uint8Array, fds: readonly number[] = []) => {
      await raw.send(message(1, command, payload), fds);
      const { payload: answer } = await raw.receive();
      return answer.length === 0 ? '' : (JSON.parse(answer.toString()) as { message: string }).message;
    };
    const begin = async () => expect(await say(HANDOVER.OFFER, encodeOffer(documents.offer), [token, theirs])).toBe('');
    return { raw, say, begin };
  };
  /** It has let go of everything, waits again, and has touched nothing of the client. */
  const isClean = async () => {
    await until(() => target.device.openCount === 0);
    expect([b.server.isBusy, await client.isSilent(5)]).toEqual([false, true]);
  };
  return { ...documents, ...target, b, token, theirs, client, connect, isClean };
}

describe('a server that is to have a client refuses', () => {
  test.each([
    ['anything before an offer', HANDOVER.TAKE, [], 'no offer came first'],
    ['an offer that is no document', HANDOVER.OFFER, [], 'JSON is wanted'],
  ])('%s', async (_name, command, payload, why) => {
    const { connect, isClean } = await played();
    expect(await connect().say(command, Uint8Array.from(payload))).toContain(why);
    await isClean();
  });

  test('an offer with the wrong number of descriptors, or a token that is none', async () => {
    const { connect, isClean, offer, theirs, token } = await played();
    const document = encodeOffer(offer);
    expect(await connect().say(HANDOVER.OFFER, document, [token])).toContain('1 descriptors came, 2 are wanted');
    await isClean();
    const file = memfdCreate('file', { size: 1 });
    cleanup(() => closeFd(file));
    expect(await connect().say(HANDOVER.OFFER, document, [file, theirs])).toContain('an eventfd is wanted');
    await isClean();
    const twin = encodeOffer({ ...offer, hasTwin: true, hasListener: true });
    expect(await connect().say(HANDOVER.OFFER, twin, [token, theirs, token])).toContain('4 are wanted');
    await isClean();
  });

  test.each([
    ['a message that nobody knows', 0x3ff, [], 'message 1023 is not known'],
    ['a second offer', HANDOVER.OFFER, [], 'message 256 is not known'],
    ['a command that waits and is cut', HANDOVER.WAITING, [...u32(0, 0), 1, 2, 3], 'is cut'],
    ['a mapping that is none', 2, u32(1, 2, 3), 'dma_map needs 32 bytes'],
    ['a takeover that is no document', HANDOVER.TAKE, [0x7b], 'JSON is wanted'],
    ['a state that the driver does not know', HANDOVER.DATA, [9, 9, 9], ''],
  ])('%s', async (_name, command, payload, why) => {
    const { connect, isClean, takeover, token } = await played();
    const { say, begin } = connect();
    await begin();
    const said = await say(command, Uint8Array.from(payload));
    if (why !== '') expect(said).toContain(why);
    // What is wrong with a state is found when all of it is there.
    else expect(await say(HANDOVER.TAKE, encodeTakeover(takeover))).toContain('a state of version 9');
    await isClean();
    expect(eventfdRead(token)).toBe(1);
  });

  test('interrupts whose descriptors did not come, are no eventfds, or that the device does not have', async () => {
    const { connect, isClean, takeover, token } = await played();
    const file = memfdCreate('file', { size: 1 });
    cleanup(() => closeFd(file));
    for (const [irqs, fds, why] of [
      [{ type: 2, vectors: [0, 1], allocated: 2 }, [token], 'descriptor 1 of 1'],
      [{ type: 2, vectors: [0], allocated: 1 }, [file], 'an eventfd is wanted'],
      [{ type: 2, vectors: new Array(9).fill(0), allocated: 9 }, [token], 'of which it has 8'],
      [{ req: 0, unmask: 0 }, [token], 'INTx is masked or has an unmask trigger'],
    ] as const) {
      const { say, begin } = connect();
      await begin();
      expect(await say(HANDOVER.FDS, new Uint8Array(4), fds)).toBe('');
      const wrong = { ...takeover, irqs: { ...takeover.irqs, ...irqs } };
      expect(await say(HANDOVER.TAKE, encodeTakeover(wrong))).toContain(why);
      await isClean();
    }
    expect(eventfdRead(token)).toBe(1);
  });

  test('a client whose token is gone', async () => {
    const { connect, isClean, takeover, token, migration, model } = await played();
    const { say, begin } = connect();
    await begin();
    expect(await say(HANDOVER.DATA, Uint8Array.of(migration.version, ...model.registers))).toBe('');
    expect(eventfdRead(token)).toBe(1);
    expect(await say(HANDOVER.TAKE, encodeTakeover(takeover))).toContain('the other server goes on');
    await isClean();
  });

  test('and keeps no descriptor of what it refused', async () => {
    const { connect, isClean, token } = await played();
    const before = openFds();
    for (let n = 0; n < 3; n++) {
      const { raw, say, begin } = connect();
      await begin();
      await say(HANDOVER.FDS, new Uint8Array(4), [token, dupFd(token)]);
      raw.close();
      await isClean();
    }
    // What the test itself has made to be passed.
    expect(openFds()).toBe(before + 3);
  });
});

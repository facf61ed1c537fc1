/** 32-bit words of a key. */
const KEY_WORDS = 4;

function hashKey(a: number, b: number, c: number, d: number): number {
  let h = Math.imul(b ^ Math.imul(a, 0x9e3779b1), 0x85ebca6b);
  h = Math.imul((h ^ (h >>> 15)) + c, 0xc2b2ae35);
  h = Math.imul((h ^ (h >>> 13)) + d, 0x27d4eb2f);
  return h ^ (h >>> 16);
}

/**
 * Numbers the distinct keys of four signed 32-bit words that it is given, from 0. Open addressing in flat arrays: a search
 * allocates nothing, and one that fails mostly ends on a hash that differs, without a look at the keys.
 */
export class IntKeyTable {
  /** Pairs: the hash, the number of the key plus 1 (0: free). At most half of them are taken. */
  #slots = new Int32Array(2 * 16);
  #keys = new Int32Array(KEY_WORDS * 8);
  #count = 0;

  /** Number of keys. */
  get count(): number {
    return this.#count;
  }

  /** The key's number, or -1. */
  find(a: number, b: number, c: number, d: number): number {
    const slots = this.#slots;
    const last = slots.length - 2;
    const hash = hashKey(a, b, c, d);
    for (let at = (hash << 1) & last; ; at = (at + 2) & last) {
      const number = (slots[at + 1] as number) - 1;
      if (number < 0) return -1;
      if (slots[at] === hash) {
        const keys = this.#keys;
        const key = number * KEY_WORDS;
        if (keys[key] === a && keys[key + 1] === b && keys[key + 2] === c && keys[key + 3] === d) return number;
      }
    }
  }

  /** The key's number; a new one where it is new. */
  add(a: number, b: number, c: number, d: number): number {
    const known = this.find(a, b, c, d);
    if (known !== -1) return known;
    const number = this.#count++;
    const key = number * KEY_WORDS;
    if (key === this.#keys.length) {
      const keys = new Int32Array(this.#keys.length * 2);
      keys.set(this.#keys);
      this.#keys = keys;
    }
    this.#keys.set([a, b, c, d], key);
    if (this.#count * 4 > this.#slots.length) this.#grow();
    else this.#place(hashKey(a, b, c, d), number);
    return number;
  }

  #place(hash: number, number: number): void {
    const slots = this.#slots;
    const last = slots.length - 2;
    let at = (hash << 1) & last;
    while (slots[at + 1] !== 0) at = (at + 2) & last;
    slots[at] = hash;
    slots[at + 1] = number + 1;
  }

  #grow(): void {
    this.#slots = new Int32Array(this.#slots.length * 2);
    const keys = this.#keys;
    for (let number = 0; number < this.#count; number++) {
      const key = number * KEY_WORDS;
      // Words of a key that exists.
      const [a, b, c, d] = [keys[key], keys[key + 1], keys[key + 2], keys[key + 3]] as [number, number, number, number];
      this.#place(hashKey(a, b, c, d), number);
    }
  }
}

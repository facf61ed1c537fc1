// Bitmaps of 64-bit words in the machine's byte order. The bytes need no alignment: words go through memcpy.
#include <cstring>

#include "args.h"
#include "exports.h"

namespace vfio {
namespace {

uint64_t Load(const uint8_t* bytes, uint64_t word) {
  uint64_t value;
  std::memcpy(&value, bytes + word * 8, 8);
  return value;
}

void Store(uint8_t* bytes, uint64_t word, uint64_t value) { std::memcpy(bytes + word * 8, &value, 8); }

// Bits from..to-1 of one word, 0 <= from < to <= 64.
uint64_t Mask(uint64_t from, uint64_t to) { return (to == 64 ? ~0ull : (1ull << to) - 1) & ~((1ull << from) - 1); }

// Whether bits start..start+count-1 lie in a bitmap of whole words.
bool InRange(const Bytes& bytes, uint64_t start, uint64_t count) {
  const uint64_t bits = static_cast<uint64_t>(bytes.length) * 8;
  return bytes.length % 8 == 0 && start <= bits && count <= bits - start;
}

// Calls visit(word, mask) for each word that the range touches.
template <typename Visit>
void EachWord(uint64_t start, uint64_t count, Visit visit) {
  const uint64_t end = start + count;
  while (start < end) {
    const uint64_t word = start / 64;
    const uint64_t stop = end < (word + 1) * 64 ? end : (word + 1) * 64;
    visit(word, Mask(start - word * 64, stop - word * 64));
    start = stop;
  }
}

void SetRange(uint8_t* bytes, uint64_t start, uint64_t count) {
  EachWord(start, count, [bytes](uint64_t word, uint64_t mask) { Store(bytes, word, Load(bytes, word) | mask); });
}

napi_value Set(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Bytes bytes = args.Uint8(0);
  const uint64_t start = args.Size(1);
  const uint64_t count = args.Size(2);
  if (!args.ok() || !InRange(bytes, start, count)) return args.Invalid();
  SetRange(bytes.data, start, count);
  return args.Result(0);
}

napi_value Clear(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Bytes bytes = args.Uint8(0);
  const uint64_t start = args.Size(1);
  const uint64_t count = args.Size(2);
  if (!args.ok() || !InRange(bytes, start, count)) return args.Invalid();
  uint8_t* data = bytes.data;
  EachWord(start, count, [data](uint64_t word, uint64_t mask) { Store(data, word, Load(data, word) & ~mask); });
  return args.Result(0);
}

napi_value Or(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Bytes target = args.Uint8(0);
  const Bytes source = args.Uint8(1);
  if (!args.ok() || target.length % 8 != 0 || source.length % 8 != 0 || source.length > target.length) {
    return args.Invalid();
  }
  for (uint64_t word = 0; word < source.length / 8; word++) {
    Store(target.data, word, Load(target.data, word) | Load(source.data, word));
  }
  return args.Result(0);
}

napi_value Count(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Bytes bytes = args.Uint8(0);
  const uint64_t start = args.Size(1);
  const uint64_t count = args.Size(2);
  if (!args.ok() || !InRange(bytes, start, count)) return args.Invalid();
  int64_t total = 0;
  const uint8_t* data = bytes.data;
  EachWord(start, count, [data, &total](uint64_t word, uint64_t mask) {
    total += __builtin_popcountll(Load(data, word) & mask);
  });
  return args.Result(total);
}

// Number of the first set bit in from..end-1, or end.
uint64_t FindNext(const uint8_t* bytes, uint64_t from, uint64_t end) {
  while (from < end) {
    const uint64_t word = from / 64;
    const uint64_t found = Load(bytes, word) & Mask(from - word * 64, 64);
    if (found != 0) {
      const uint64_t bit = word * 64 + static_cast<uint64_t>(__builtin_ctzll(found));
      return bit < end ? bit : end;
    }
    from = (word + 1) * 64;
  }
  return end;
}

napi_value Next(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Bytes bytes = args.Uint8(0);
  const uint64_t from = args.Size(1);
  const uint64_t end = args.Size(2);
  if (!args.ok() || from > end || !InRange(bytes, from, end - from)) return args.Invalid();
  const uint64_t found = FindNext(bytes.data, from, end);
  return args.Result(found == end ? -ENOENT : static_cast<int64_t>(found));
}

// Arguments: source, start, count, target, how many target bits a source bit becomes, how many source bits a target bit
// stands for. One of the last two is 1.
napi_value Scale(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Bytes source = args.Uint8(0);
  const uint64_t start = args.Size(1);
  const uint64_t count = args.Size(2);
  const Bytes target = args.Uint8(3);
  const uint64_t finer = args.Size(4);
  const uint64_t coarser = args.Size(5);
  if (!args.ok() || !InRange(source, start, count) || finer == 0 || coarser == 0) return args.Invalid();
  const uint64_t bits = static_cast<uint64_t>(target.length) * 8;
  // Rounded up: the last target bit may stand for fewer source bits. `finer` times `count` cannot be compared directly,
  // it may exceed 64 bits.
  const uint64_t needed = count / coarser + (count % coarser != 0 ? 1 : 0);
  if (target.length % 8 != 0 || needed > bits / finer) return args.Invalid();
  const uint64_t end = start + count;
  for (uint64_t bit = FindNext(source.data, start, end); bit < end; bit = FindNext(source.data, bit + 1, end)) {
    SetRange(target.data, (bit - start) / coarser * finer, finer);
  }
  return args.Result(0);
}

}  // namespace

void ExportBitmap(napi_env env, napi_value exports) {
  Export(env, exports, "bitmapSet", Set);
  Export(env, exports, "bitmapClear", Clear);
  Export(env, exports, "bitmapOr", Or);
  Export(env, exports, "bitmapCount", Count);
  Export(env, exports, "bitmapNext", Next);
  Export(env, exports, "bitmapScale", Scale);
}

}  // namespace vfio

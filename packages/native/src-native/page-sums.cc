// Sums of pages, by which a page is known to have changed since. 64 bits; not for anything that somebody may want to forge.
#include <cstring>

#include "args.h"
#include "exports.h"

namespace vfio {
namespace {

constexpr size_t kLanes = 4;
constexpr uint64_t kFactors[kLanes] = {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full, 0x165667b19e3779f9ull,
                                       0xd6e8feb86659fd93ull};

uint64_t Rotate(uint64_t value, int bits) { return (value << bits) | (value >> (64 - bits)); }

// Multiplication by an odd number loses nothing, so one changed word always changes its lane. The rotation brings high bits,
// which a product spreads to no other, down again.
uint64_t Sum(const uint8_t* bytes, size_t length) {
  uint64_t lanes[kLanes] = {kFactors[1], kFactors[2], kFactors[3], kFactors[0]};
  for (size_t at = 0; at < length; at += kLanes * 8) {
    for (size_t lane = 0; lane < kLanes; lane++) {
      uint64_t word;
      std::memcpy(&word, bytes + at + lane * 8, 8);
      lanes[lane] = Rotate((lanes[lane] ^ word) * kFactors[lane], 31);
    }
  }
  uint64_t sum = length;
  for (size_t lane = 0; lane < kLanes; lane++) {
    sum = Rotate((sum ^ lanes[lane]) * kFactors[lane], 29);
  }
  sum ^= sum >> 32;
  return sum;
}

// Arguments: bytes of whole pages, bytes of a page (a multiple of 32), sums (8 bytes a page), page of the first sum, and null
// or a bitmap in which the bit of each page whose sum is another than before is set, with the bit of the first page.
// Answers how many sums changed.
napi_value PageSums(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Bytes bytes = args.Uint8(0);
  const uint64_t page_size = args.Size(1);
  const Bytes sums = args.Uint8(2);
  const uint64_t first = args.Size(3);
  const bool marks = !args.IsNull(4);
  const Bytes bitmap = marks ? args.Uint8(4) : Bytes();
  const uint64_t bit = args.Size(5);
  if (!args.ok() || page_size == 0 || page_size % (kLanes * 8) != 0 || bytes.length % page_size != 0) {
    return args.Invalid();
  }
  const uint64_t pages = bytes.length / page_size;
  const uint64_t known = sums.length / 8;
  const uint64_t bits = static_cast<uint64_t>(bitmap.length) * 8;
  if (first > known || pages > known - first || bitmap.length % 8 != 0) return args.Invalid();
  if (marks && (bit > bits || pages > bits - bit)) return args.Invalid();
  int64_t changed = 0;
  for (uint64_t page = 0; page < pages; page++) {
    const uint64_t sum = Sum(bytes.data + page * page_size, page_size);
    uint8_t* place = sums.data + (first + page) * 8;
    if (std::memcmp(place, &sum, 8) == 0) continue;
    std::memcpy(place, &sum, 8);
    changed++;
    if (!marks) continue;
    const uint64_t number = bit + page;
    uint64_t word;
    std::memcpy(&word, bitmap.data + number / 64 * 8, 8);
    word |= 1ull << (number % 64);
    std::memcpy(bitmap.data + number / 64 * 8, &word, 8);
  }
  return args.Result(changed);
}

}  // namespace

void ExportPageSums(napi_env env, napi_value exports) { Export(env, exports, "pageSums", PageSums); }

}  // namespace vfio

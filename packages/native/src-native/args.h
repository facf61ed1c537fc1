// Reads the arguments of a native function. Nothing here throws: what has the wrong type makes ok() false, and the
// function answers -EINVAL.
#ifndef VFIO_NATIVE_ARGS_H_
#define VFIO_NATIVE_ARGS_H_

#include <napi.h>

#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

namespace vfio {

constexpr size_t kMaxArgs = 9;
constexpr double kMaxSafeInteger = 9007199254740991.0;

inline napi_value Number(napi_env env, int64_t value) {
  napi_value result = nullptr;
  if (value >= INT32_MIN && value <= INT32_MAX) {
    napi_create_int32(env, static_cast<int32_t>(value), &result);
  } else {
    napi_create_int64(env, value, &result);
  }
  return result;
}

// Bytes of a Uint8Array. They belong to JavaScript and are valid until control goes back to it.
struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};

class Args {
 public:
  Args(napi_env env, napi_callback_info info) : env_(env) {
    size_t count = kMaxArgs;
    if (napi_get_cb_info(env, info, &count, values_, nullptr, nullptr) != napi_ok) ok_ = false;
    count_ = count < kMaxArgs ? count : kMaxArgs;
  }

  explicit Args(const Napi::CallbackInfo& info) : env_(info.Env()), count_(info.Length() < kMaxArgs ? info.Length() : kMaxArgs) {
    for (size_t i = 0; i < count_; i++) values_[i] = info[i];
  }

  bool ok() const { return ok_; }
  napi_env env() const { return env_; }

  napi_value Value(size_t index) {
    if (index >= count_) {
      ok_ = false;
      return nullptr;
    }
    return values_[index];
  }

  // An integer that fits in 32 bits, signed or unsigned.
  int32_t Int(size_t index) {
    const double value = Double(index);
    if (value < INT32_MIN || value > UINT32_MAX || value != std::floor(value)) {
      ok_ = false;
      return -1;
    }
    return static_cast<int32_t>(static_cast<int64_t>(value));
  }

  // An integer from 0 to 2^53 - 1.
  uint64_t Size(size_t index) {
    const double value = Double(index);
    if (value < 0 || value > kMaxSafeInteger || value != std::floor(value)) {
      ok_ = false;
      return 0;
    }
    return static_cast<uint64_t>(value);
  }

  // A file offset: a number as above, or a bigint below 2^63.
  int64_t Offset(size_t index) {
    napi_value value = Value(index);
    if (value == nullptr) return -1;
    napi_valuetype type = napi_undefined;
    if (napi_typeof(env_, value, &type) == napi_ok && type == napi_bigint) {
      int64_t result = -1;
      bool lossless = false;
      if (napi_get_value_bigint_int64(env_, value, &result, &lossless) != napi_ok || !lossless || result < 0) ok_ = false;
      return result;
    }
    return static_cast<int64_t>(Size(index));
  }

  bool Bool(size_t index) {
    bool result = false;
    napi_value value = Value(index);
    if (value == nullptr || napi_get_value_bool(env_, value, &result) != napi_ok) ok_ = false;
    return result;
  }

  std::string String(size_t index) {
    napi_value value = Value(index);
    size_t length = 0;
    if (value == nullptr || napi_get_value_string_utf8(env_, value, nullptr, 0, &length) != napi_ok) {
      ok_ = false;
      return std::string();
    }
    std::string result(length + 1, '\0');
    napi_get_value_string_utf8(env_, value, &result[0], length + 1, &length);
    result.resize(length);
    // A NUL inside would silently cut the string for the kernel.
    if (result.find('\0') != std::string::npos) ok_ = false;
    return result;
  }

  // The elements of a typed array of the given type.
  template <typename T>
  T* Array(size_t index, napi_typedarray_type wanted, size_t* length) {
    napi_value value = Value(index);
    *length = 0;
    if (value == nullptr) return nullptr;
    return ArrayOf<T>(value, wanted, length);
  }

  template <typename T>
  T* ArrayOf(napi_value value, napi_typedarray_type wanted, size_t* length) {
    *length = 0;
    bool is = false;
    napi_typedarray_type type = napi_int8_array;
    void* data = nullptr;
    if (napi_is_typedarray(env_, value, &is) != napi_ok || !is ||
        napi_get_typedarray_info(env_, value, &type, length, &data, nullptr, nullptr) != napi_ok || type != wanted) {
      ok_ = false;
      *length = 0;
      return nullptr;
    }
    return static_cast<T*>(data);
  }

  Bytes Uint8(size_t index) {
    Bytes bytes;
    bytes.data = Array<uint8_t>(index, napi_uint8_array, &bytes.length);
    return bytes;
  }

  bool IsNull(size_t index) {
    napi_valuetype type = napi_undefined;
    napi_value value = Value(index);
    return value != nullptr && napi_typeof(env_, value, &type) == napi_ok && (type == napi_null || type == napi_undefined);
  }

  // Descriptors to send: null, or an Int32Array of which the first `count` (the next argument) count.
  const int32_t* Descriptors(size_t index, size_t* count) {
    *count = 0;
    if (IsNull(index)) return nullptr;
    size_t length = 0;
    const int32_t* data = Array<int32_t>(index, napi_int32_array, &length);
    *count = static_cast<size_t>(Size(index + 1));
    if (*count > length) ok_ = false;
    return data;
  }

  napi_value Result(int64_t value) const { return Number(env_, value); }
  napi_value Invalid() const { return Number(env_, -EINVAL); }
  // What a system call answered, in the form of this addon: the value, or minus errno.
  napi_value SystemCall(int64_t value) const { return Number(env_, value < 0 ? -errno : value); }

 private:
  double Double(size_t index) {
    double result = NAN;
    napi_value value = Value(index);
    if (value == nullptr || napi_get_value_double(env_, value, &result) != napi_ok || std::isnan(result)) {
      ok_ = false;
      return -1;
    }
    return result;
  }

  napi_env env_;
  napi_value values_[kMaxArgs] = {};
  size_t count_ = 0;
  bool ok_ = true;
};

}  // namespace vfio

#endif  // VFIO_NATIVE_ARGS_H_

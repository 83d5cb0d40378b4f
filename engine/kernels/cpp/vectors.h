// Vectors of floats as wide as a register, in the compiler's own vector types.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int64_t kWidth = 16;
#elif defined(__AVX2__)
constexpr int64_t kWidth = 8;
#else
constexpr int64_t kWidth = 4;
#endif

using floats = float __attribute__((vector_size(4 * kWidth)));
using ints = int32_t __attribute__((vector_size(4 * kWidth)));
using words = uint32_t __attribute__((vector_size(4 * kWidth)));
using halves = uint16_t __attribute__((vector_size(2 * kWidth)));

// bfloat16: the upper half of a float.
struct bf16 {
  uint16_t bits;
};

inline floats splat(float x) { return x - floats{}; }

inline floats load(const float* from) {
  floats x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

inline floats load(const bf16* from) {
  halves bits;
  std::memcpy(&bits, from, sizeof(bits));
  return (floats)(__builtin_convertvector(bits, words) << 16);
}

inline void store(float* to, floats x) { std::memcpy(to, &x, sizeof(x)); }

// The upper halves of the nearest bfloat16, ties to even, as libtorch. NaN stays NaN.
inline words nearest(floats x) {
  const words bits = (words)x;
  const words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const words ordered = (words)(x == x);
  return (rounded & ordered) | (0x7fc0 & ~ordered);
}

#ifdef __AVX512BF16__
// Numbers below the smallest normal one become 0.
inline halves rounded(floats x) { return (halves)_mm512_cvtneps_pbh((__m512)x); }
#else
inline halves rounded(floats x) { return __builtin_convertvector(nearest(x), halves); }
#endif

inline void store(bf16* to, floats x) {
  const halves bits = rounded(x);
  std::memcpy(to, &bits, sizeof(bits));
}

inline float load1(const float* from) { return *from; }
inline float load1(const bf16* from) {
  const uint32_t bits = static_cast<uint32_t>(from->bits) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline void store1(float* to, float x) { *to = x; }
inline void store1(bf16* to, float x) {
  const halves bits = rounded(splat(x));
  to->bits = bits[0];
}

// The first `count` values of a vector, zeros after them.
template <class T>
inline floats load_some(const T* from, int64_t count) {
  T some[kWidth] = {};
  std::memcpy(some, from, count * sizeof(T));
  return load(some);
}

template <class T>
inline void store_some(T* to, floats x, int64_t count) {
  T some[kWidth];
  store(some, x);
  std::memcpy(to, some, count * sizeof(T));
}

// The value of the data type nearest to x.
template <class T>
inline floats as(floats x);
template <>
inline floats as<float>(floats x) {
  return x;
}
template <>
inline floats as<bf16>(floats x) {
#ifdef __AVX512BF16__
  return (floats)(__builtin_convertvector(rounded(x), words) << 16);
#else
  return (floats)(nearest(x) << 16);
#endif
}

inline floats select(ints mask, floats yes, floats no) { return mask ? yes : no; }
inline floats max(floats a, floats b) { return a > b ? a : b; }
inline floats min(floats a, floats b) { return a < b ? a : b; }

// Sums in a fixed order, which no instruction set changes.
inline float sum(floats x) {
  float parts[kWidth];
  store(parts, x);
  for (int64_t half = kWidth / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

// e^x with a relative error below 3e-7; 0 below -87, where the result is no normal number, and e^88 above 88.
inline floats exp(floats x) {
  const floats bounded = min(max(x, splat(-87.0f)), splat(88.0f));
  // x = n ln 2 + r. Adding 1.5 * 2^23 rounds to a whole number.
  const floats magic = splat(12582912.0f);
  const floats shifted = bounded * 1.44269504088896341f + magic;
  const floats n = shifted - magic;
  const floats r = (bounded - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
  floats p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const ints exponent = ((ints)shifted - 0x4b400000 + 127) << 23;
  const floats result = p * (floats)exponent;
  // NaN stays NaN.
  return select(x == x, select(x < -87.0f, floats{}, result), x);
}

}  // namespace

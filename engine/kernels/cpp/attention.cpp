// Attention of one head at a time (FlashAttention-2, arXiv:2307.08691), for processors with AVX-512: all operands of the
// products of a block lie in the cache.
//
// Scores are kept transposed, [keys, queries]: the softmax of a query is a column, so that no vector is summed across.
// A product C += A B has A by rows, and B packed as the processor multiplies it: pairs of rows interleaved in bfloat16.
// A head is computed by one thread in a fixed order, so results do not depend on the number of threads.
#include "vectors.h"

#include <cpuid.h>
#include <immintrin.h>

#include <cmath>
#include <cstdlib>

namespace {

constexpr int64_t kQueries = 64;  // of a block
constexpr int64_t kKeys = 64;      // of a block
constexpr float kNone = -INFINITY;

// The functions of the standard library are templates, whose instances the linker shares between instruction sets.
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a < b ? b : a; }
constexpr int64_t up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// ---- products ------------------------------------------------------------------------------------------------------

// How a data type is multiplied: `kStep` rows of B are interleaved.
template <class T>
struct Product;

template <>
struct Product<float> {
  static constexpr int64_t kStep = 1;
  using Pack = float;
  static inline floats add(floats sum, const float* a, floats b) { return sum + *a * b; }
};

#ifdef __AVX512BF16__
template <>
struct Product<bf16> {
  static constexpr int64_t kStep = 2;
  using Pack = uint32_t;
  static inline floats add(floats sum, const bf16* a, floats b) {
    int32_t pair;
    std::memcpy(&pair, a, sizeof(pair));
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
  }
};
#endif

template <class T, int M, int N>
inline void tile(int64_t steps, const T* a, int64_t lda, const typename Product<T>::Pack* b, int64_t ldb, float* c,
                 int64_t ldc, bool add) {
  floats sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[m][n] = add ? load(c + m * ldc + n * kWidth) : floats{};
  }
  for (int64_t step = 0; step < steps; ++step) {
    floats row[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) std::memcpy(&row[n], b + step * ldb + n * kWidth, sizeof(floats));
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[m][n] = Product<T>::add(sums[m][n], a + m * lda + step * Product<T>::kStep, row[n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + m * ldc + n * kWidth, sums[m][n]);
  }
}

template <class T, int N>
void columns(int64_t m, int64_t steps, const T* a, int64_t lda, const typename Product<T>::Pack* b, int64_t ldb, float* c,
             int64_t ldc, bool add) {
  constexpr int kRows = 6;
  int64_t row = 0;
  for (; row + kRows <= m; row += kRows) {
    tile<T, kRows, N>(steps, a + row * lda, lda, b, ldb, c + row * ldc, ldc, add);
  }
  a += row * lda;
  c += row * ldc;
  switch (m - row) {
    case 5: return tile<T, 5, N>(steps, a, lda, b, ldb, c, ldc, add);
    case 4: return tile<T, 4, N>(steps, a, lda, b, ldb, c, ldc, add);
    case 3: return tile<T, 3, N>(steps, a, lda, b, ldb, c, ldc, add);
    case 2: return tile<T, 2, N>(steps, a, lda, b, ldb, c, ldc, add);
    case 1: return tile<T, 1, N>(steps, a, lda, b, ldb, c, ldc, add);
    default: return;
  }
}

// C [m, n] = A [m, k] B [k, n], or C += A B. `k` is a multiple of the step, `n` of 16.
template <class T>
void product(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const typename Product<T>::Pack* b, int64_t ldb,
             float* c, int64_t ldc, bool add) {
  const int64_t steps = k / Product<T>::kStep;
  int64_t column = 0;
  for (; column + 4 * kWidth <= n; column += 4 * kWidth) columns<T, 4>(m, steps, a, lda, b + column, ldb, c + column, ldc, add);
  switch ((n - column) / kWidth) {
    case 3: return columns<T, 3>(m, steps, a, lda, b + column, ldb, c + column, ldc, add);
    case 2: return columns<T, 2>(m, steps, a, lda, b + column, ldb, c + column, ldc, add);
    case 1: return columns<T, 1>(m, steps, a, lda, b + column, ldb, c + column, ldc, add);
    default: return;
  }
}

// ---- packing -------------------------------------------------------------------------------------------------------

// Packs x [rows, width] as B of rows: [rows / step, width]. Rows up to a multiple of 16 are zeros.
inline void pack_rows(float* to, const float* x, int64_t stride, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row) std::memcpy(to + row * width, x + row * stride, width * sizeof(float));
  std::memset(to + rows * width, 0, (up(rows, kWidth) - rows) * width * sizeof(float));
}

inline void pack_rows(uint32_t* to, const bf16* x, int64_t stride, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < up(rows, kWidth); row += 2) {
    const bf16* even = row < rows ? x + row * stride : nullptr;
    const bf16* odd = row + 1 < rows ? x + (row + 1) * stride : nullptr;
    for (int64_t i = 0; i < width; ++i) {
      to[row / 2 * width + i] = (even ? even[i].bits : 0u) | (odd ? static_cast<uint32_t>(odd[i].bits) << 16 : 0u);
    }
  }
}

// Transposes 16 rows of 16 words; the words of rows after `rows` are zeros.
template <class Word>
inline void transpose16(Word* to, int64_t to_stride, const Word* from, int64_t from_stride, int64_t rows) {
  static_assert(sizeof(Word) == 4);
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = i < rows ? _mm512_loadu_si512(from + i * from_stride) : _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[8 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88));
    _mm512_storeu_si512(to + (8 + i) * to_stride, _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd));
    _mm512_storeu_si512(to + (4 + i) * to_stride, _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88));
    _mm512_storeu_si512(to + (12 + i) * to_stride, _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd));
  }
}

// Packs x^T, of x [rows, width], as B of `width` rows: [width / step, up(rows)]. Its pairs are neighbours in x.
inline void pack_transposed(float* to, const float* x, int64_t stride, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; row += kWidth) {
    for (int64_t i = 0; i < width; i += kWidth) {
      transpose16(to + i * up(rows, kWidth) + row, up(rows, kWidth), x + row * stride + i, stride, rows - row);
    }
  }
}

inline void pack_transposed(uint32_t* to, const bf16* x, int64_t stride, int64_t rows, int64_t width) {
  // Rows of pairs. A head's width is a multiple of 32 here, or its last pairs are moved one by one.
  const int64_t pairs = width / 2, columns = up(rows, kWidth);
  const auto* words = reinterpret_cast<const uint32_t*>(x);
  for (int64_t row = 0; row < rows; row += kWidth) {
    int64_t i = 0;
    if (stride % 2 == 0) {
      for (; i + kWidth <= pairs; i += kWidth) {
        transpose16(to + i * columns + row, columns, words + row * (stride / 2) + i, stride / 2, rows - row);
      }
    }
    for (; i < pairs; ++i) {
      for (int64_t j = row; j < row + kWidth; ++j) {
        uint32_t pair = 0;
        if (j < rows) std::memcpy(&pair, x + j * stride + 2 * i, sizeof(pair));
        to[i * columns + j] = pair;
      }
    }
  }
}

// Writes x^T by rows, of x [rows, width]: A [width, up(rows)], the rows after the last one as zeros.
inline void transpose_rows(float* to, const float* x, int64_t stride, int64_t rows, int64_t width) {
  pack_transposed(to, x, stride, rows, width);
}

inline void transpose_rows(bf16* to, const bf16* x, int64_t stride, int64_t rows, int64_t width) {
  const int64_t columns = up(rows, kWidth);
  // 16 rows at a time, so that a row of the result is written by cache lines.
  for (int64_t row = 0; row < columns; row += kWidth) {
    for (int64_t i = 0; i < width; ++i) {
      bf16 line[kWidth];
      for (int64_t j = 0; j < kWidth; ++j) line[j] = row + j < rows ? x[(row + j) * stride + i] : bf16{0};
      std::memcpy(to + i * columns + row, line, sizeof(line));
    }
  }
}

// Writes two rows of probabilities, or of their gradients, of keys 2 i and 2 i + 1: as B of keys.
inline void store_pair(float* to, int64_t width, floats even, floats odd) {
  store(to, even);
  store(to + width, odd);
}

#ifdef __AVX512BF16__
inline words pair(floats even, floats odd) {
  const words low = __builtin_convertvector((halves)_mm512_cvtneps_pbh((__m512)even), words);
  const words high = __builtin_convertvector((halves)_mm512_cvtneps_pbh((__m512)odd), words);
  return low | (high << 16);
}
inline void store_pair(uint32_t* to, int64_t, floats even, floats odd) {
  const words both = pair(even, odd);
  std::memcpy(to, &both, sizeof(both));
}
#endif

// Writes a row of A.
inline void store_row(float* to, floats x) { store(to, x); }
#ifdef __AVX512BF16__
inline void store_row(bf16* to, floats x) {
  const __m256bh bits = _mm512_cvtneps_pbh((__m512)x);
  std::memcpy(to, &bits, sizeof(bits));
}
#endif

// ---- one head ------------------------------------------------------------------------------------------------------

// Rows of one head: the distance between two positions is `stride`.
template <class T>
struct Rows {
  T* at;
  int64_t stride;
  T* row(int64_t position) const { return at + position * stride; }
};

// Memory of one thread.
struct Scratch {
  char* at;
  template <class T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(at);
    at += up(count * sizeof(T), 64);
    return taken;
  }
};

// Sets scores of keys after a query, and of keys that do not exist, to -inf. `keys` x `queries` scores from key `k0` and
// query `q0` on; the keys end at `end`.
inline void mask(float* scores, int64_t keys, int64_t queries, int64_t k0, int64_t q0, int64_t end, bool causal) {
  ints lane;
  for (int i = 0; i < kWidth; ++i) lane[i] = i;
  for (int64_t key = 0; key < keys; ++key) {
    float* row = scores + key * queries;
    if (k0 + key >= end) {
      for (int64_t i = 0; i < queries; i += kWidth) store(row + i, splat(kNone));
    } else if (causal && k0 + key > q0) {
      for (int64_t i = 0; i < queries && q0 + i < k0 + key; i += kWidth) {
        const ints query = lane + static_cast<int32_t>(q0 + i);
        store(row + i, select(query < static_cast<int32_t>(k0 + key), splat(kNone), load(row + i)));
      }
    }
  }
}

// Attention of `s` queries to as many keys: output and log-sum-exp of each query.
template <class T>
void head_forward(Rows<const T> q, Rows<const T> k, const T* v_transposed, Rows<T> o, float* lse, int64_t s, int64_t d,
                  bool causal, float scale, Scratch scratch) {
  using Pack = typename Product<T>::Pack;
  constexpr int64_t kStep = Product<T>::kStep;
  Pack* queries = scratch.take<Pack>(d / kStep * kQueries);
  float* scores = scratch.take<float>(kKeys * kQueries);
  Pack* probabilities = scratch.take<Pack>(kKeys / kStep * kQueries);
  float* sums = scratch.take<float>(d * kQueries);
  float* lines = scratch.take<float>(kQueries * d);
  float* greatest = scratch.take<float>(kQueries);
  float* totals = scratch.take<float>(kQueries);
  const int64_t keys_wide = up(s, kWidth);
  for (int64_t q0 = 0; q0 < s; q0 += kQueries) {
    const int64_t count = least(kQueries, s - q0), wide = up(count, kWidth);
    pack_transposed(queries, q.row(q0), q.stride, count, d);
    for (int64_t i = 0; i < wide; i += kWidth) {
      store(greatest + i, splat(kNone));
      store(totals + i, floats{});
    }
    const int64_t end = causal ? q0 + count : s;
    for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
      const int64_t keys = least(kKeys, end - k0), keys16 = up(keys, kWidth);
      // Queries before the first key of the block see none of it.
      const int64_t first = causal && k0 > q0 ? (k0 - q0) / kWidth * kWidth : 0, n = wide - first;
      product<T>(keys, n, d, k.row(k0), k.stride, queries + first, wide, scores, n, false);
      const bool masked = keys < keys16 || (causal && k0 + keys > q0 + first);
      if (masked) mask(scores, keys16, n, k0, q0 + first, s, causal);
      for (int64_t i = 0; i < n; i += kWidth) {
        floats top = load(scores + i);
        for (int64_t key = 1; key < keys16; ++key) top = max(top, load(scores + key * n + i));
        const floats before = load(greatest + first + i), now = max(before, top * scale);
        store(greatest + first + i, now);
        // A query without a key so far: 0 instead of the difference of two infinities.
        const floats base = select(now == kNone, floats{}, now);
        const floats factor = exp(before - base);
        floats total = load(totals + first + i) * factor;
        for (int64_t key = 0; key < keys16; key += 2) {
          const floats even = exp(load(scores + key * n + i) * scale - base);
          const floats odd = exp(load(scores + (key + 1) * n + i) * scale - base);
          total += even + odd;
          store_pair(probabilities + key / kStep * n + i, n, even, odd);
        }
        store(totals + first + i, total);
        if (k0 > 0) {
          for (int64_t row = 0; row < d; ++row) {
            float* at = sums + row * wide + first + i;
            store(at, load(at) * factor);
          }
        }
      }
      product<T>(d, n, keys16, v_transposed + k0, keys_wide, probabilities, n, sums + first, wide, k0 > 0);
    }
    for (int64_t i = 0; i < wide; i += kWidth) {
      const floats factor = 1.0f / load(totals + i);
      for (int64_t row = 0; row < d; ++row) {
        float* at = sums + row * wide + i;
        store(at, load(at) * factor);
      }
      for (int64_t row = 0; row < d; row += kWidth) transpose16(lines + i * d + row, d, sums + row * wide + i, wide, kWidth);
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < d; j += kWidth) store(o.row(q0 + i) + j, load(lines + i * d + j));
      lse[q0 + i] = greatest[i] + std::log(totals[i]);
    }
  }
}

// Gradients of the queries, and those of keys and values added to `dk` and `dv` [up(s), d].
template <class T>
void head_backward(Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<const T> o, Rows<const T> d_o, const float* lse,
                   const T* k_transposed, Rows<T> dq, float* dk, float* dv, int64_t s, int64_t d, bool causal, float scale,
                   Scratch scratch) {
  using Pack = typename Product<T>::Pack;
  constexpr int64_t kStep = Product<T>::kStep;
  Pack* q_columns = scratch.take<Pack>(d / kStep * kQueries);
  Pack* do_columns = scratch.take<Pack>(d / kStep * kQueries);
  Pack* q_rows = scratch.take<Pack>(kQueries / kStep * d);
  Pack* do_rows = scratch.take<Pack>(kQueries / kStep * d);
  float* scores = scratch.take<float>(kKeys * kQueries);
  float* changes = scratch.take<float>(kKeys * kQueries);
  T* probabilities = scratch.take<T>(kKeys * kQueries);
  T* dscores = scratch.take<T>(kKeys * kQueries);
  Pack* dscores_pairs = scratch.take<Pack>(kKeys / kStep * kQueries);
  float* sums = scratch.take<float>(d * kQueries);
  float* lines = scratch.take<float>(kQueries * d);
  float* means = scratch.take<float>(kQueries);
  float* bases = scratch.take<float>(kQueries);
  const int64_t keys_wide = up(s, kWidth);
  for (int64_t q0 = 0; q0 < s; q0 += kQueries) {
    const int64_t count = least(kQueries, s - q0), wide = up(count, kWidth);
    pack_transposed(q_columns, q.row(q0), q.stride, count, d);
    pack_transposed(do_columns, d_o.row(q0), d_o.stride, count, d);
    pack_rows(q_rows, q.row(q0), q.stride, count, d);
    pack_rows(do_rows, d_o.row(q0), d_o.stride, count, d);
    for (int64_t i = 0; i < wide; ++i) {
      floats mean{};
      for (int64_t j = 0; i < count && j < d; j += kWidth) mean += load(o.row(q0 + i) + j) * load(d_o.row(q0 + i) + j);
      means[i] = sum(mean);
      bases[i] = i < count ? lse[q0 + i] : 0.0f;
    }
    const int64_t end = causal ? q0 + count : s;
    for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
      const int64_t keys = least(kKeys, end - k0), keys16 = up(keys, kWidth);
      const int64_t first = causal && k0 > q0 ? (k0 - q0) / kWidth * kWidth : 0, n = wide - first;
      product<T>(keys, n, d, k.row(k0), k.stride, q_columns + first, wide, scores, n, false);
      product<T>(keys, n, d, v.row(k0), v.stride, do_columns + first, wide, changes, n, false);
      const bool masked = keys < keys16 || (causal && k0 + keys > q0 + first);
      if (masked) {
        mask(scores, keys16, n, k0, q0 + first, s, causal);
        std::memset(changes + keys * n, 0, (keys16 - keys) * n * sizeof(float));
      }
      for (int64_t i = 0; i < n; i += kWidth) {
        const floats base = load(bases + first + i), mean = load(means + first + i);
        for (int64_t key = 0; key < keys16; key += 2) {
          floats change[2];
#pragma GCC unroll 2
          for (int j = 0; j < 2; ++j) {
            const int64_t at = (key + j) * n + i;
            const floats probability = exp(load(scores + at) * scale - base);
            change[j] = probability * (load(changes + at) - mean) * scale;
            store_row(probabilities + at, probability);
            store_row(dscores + at, change[j]);
          }
          store_pair(dscores_pairs + key / kStep * n + i, n, change[0], change[1]);
        }
      }
      product<T>(keys, d, n, probabilities, n, do_rows + first / kStep * d, d, dv + k0 * d, d, true);
      product<T>(keys, d, n, dscores, n, q_rows + first / kStep * d, d, dk + k0 * d, d, true);
      product<T>(d, n, keys16, k_transposed + k0, keys_wide, dscores_pairs, n, sums + first, wide, k0 > 0);
    }
    for (int64_t i = 0; i < wide; i += kWidth) {
      for (int64_t row = 0; row < d; row += kWidth) transpose16(lines + i * d + row, d, sums + row * wide + i, wide, kWidth);
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < d; j += kWidth) store(dq.row(q0 + i) + j, load(lines + i * d + j));
    }
  }
}

}  // namespace

extern "C" {

// Tensors `[b, n, s, d]` with neighbours in `d`: the distances between rows of the batch, heads and positions.
struct neva_heads {
  void* at;
  int64_t strides[3];
};

// Segments: one row of the batch, its first position and its length each. `lse` is [b, heads, s].
struct neva_attention {
  neva_heads q, k, v, o, d_o, dq, dk, dv;
  float* lse;
  int64_t heads, kv_heads, s, d;
  const int64_t* segments;
  int64_t segment_count;
  int32_t causal;
  float scale;
};
}

namespace {

template <class T>
Rows<T> rows(const neva_heads& heads, const int64_t* segment, int64_t head) {
  auto* at = static_cast<T*>(heads.at) + segment[0] * heads.strides[0] + head * heads.strides[1] + segment[1] * heads.strides[2];
  return {at, heads.strides[2]};
}

template <class T>
int64_t scratch_bytes(int64_t longest, int64_t d) {
  const int64_t rows = up(longest, kWidth);
  // Whatever a pass takes, each piece at a multiple of 64 bytes.
  return 4 * (8 * kQueries * d + 6 * kKeys * kQueries + 3 * rows * d + 4 * kQueries) + 32 * 64;
}

// Runs `body(task, scratch)` for each task; 1 without memory.
template <class T, class Body>
int run(const neva_attention& x, int64_t tasks, Body body) {
  int64_t longest = 0;
  for (int64_t i = 0; i < x.segment_count; ++i) longest = most(longest, x.segments[3 * i + 2]);
  const int64_t bytes = up(scratch_bytes<T>(longest, x.d), 64);
  int failed = 0;
#pragma omp parallel if (tasks > 1)
  {
    auto* memory = static_cast<char*>(::aligned_alloc(64, bytes));
    if (!memory) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) {
      if (memory) body(task, Scratch{memory});
    }
    ::free(memory);
  }
  return failed;
}

template <class T>
int forward(const neva_attention& x) {
  const int64_t groups = x.heads / x.kv_heads;
  return run<T>(x, x.segment_count * x.heads, [&](int64_t task, Scratch scratch) {
    const int64_t* segment = x.segments + 3 * (task / x.heads);
    const int64_t head = task % x.heads, kv_head = head / groups, s = segment[2];
    const auto v = rows<const T>(x.v, segment, kv_head);
    T* v_transposed = scratch.take<T>(up(s, kWidth) * x.d);
    transpose_rows(v_transposed, v.at, v.stride, s, x.d);
    float* lse = x.lse + (segment[0] * x.heads + head) * x.s + segment[1];
    head_forward<T>(rows<const T>(x.q, segment, head), rows<const T>(x.k, segment, kv_head), v_transposed,
                    rows<T>(x.o, segment, head), lse, s, x.d, x.causal, x.scale, scratch);
  });
}

template <class T>
int backward(const neva_attention& x) {
  const int64_t groups = x.heads / x.kv_heads;
  return run<T>(x, x.segment_count * x.kv_heads, [&](int64_t task, Scratch scratch) {
    const int64_t* segment = x.segments + 3 * (task / x.kv_heads);
    const int64_t kv_head = task % x.kv_heads, s = segment[2], wide = up(s, kWidth);
    const auto k = rows<const T>(x.k, segment, kv_head), v = rows<const T>(x.v, segment, kv_head);
    T* k_transposed = scratch.take<T>(wide * x.d);
    transpose_rows(k_transposed, k.at, k.stride, s, x.d);
    float* dk = scratch.take<float>(wide * x.d);
    float* dv = scratch.take<float>(wide * x.d);
    std::memset(dk, 0, wide * x.d * sizeof(float));
    std::memset(dv, 0, wide * x.d * sizeof(float));
    for (int64_t head = kv_head * groups; head < (kv_head + 1) * groups; ++head) {
      const float* lse = x.lse + (segment[0] * x.heads + head) * x.s + segment[1];
      head_backward<T>(rows<const T>(x.q, segment, head), k, v, rows<const T>(x.o, segment, head),
                       rows<const T>(x.d_o, segment, head), lse, k_transposed, rows<T>(x.dq, segment, head), dk, dv, s, x.d,
                       x.causal, x.scale, scratch);
    }
    const auto dk_rows = rows<T>(x.dk, segment, kv_head), dv_rows = rows<T>(x.dv, segment, kv_head);
    for (int64_t row = 0; row < s; ++row) {
      for (int64_t i = 0; i < x.d; i += kWidth) {
        store(dk_rows.row(row) + i, load(dk + row * x.d + i));
        store(dv_rows.row(row) + i, load(dv + row * x.d + i));
      }
    }
  });
}

}  // namespace

#define JOIN_NAMES(a, b) a##_##b
#define JOIN(a, b) JOIN_NAMES(a, b)

extern "C" {

// Whether the processor has AMX-BF16: leaf 7, bit 22 of EDX.
int JOIN(neva_has_amx, VARIANT)() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 22)) != 0;
}

// Attention, or its gradients, in fp32 (`kind` 0) or in bf16 (1). Returns 0, 1 without memory, 2 without such a kernel.
int JOIN(neva_attention, VARIANT)(const neva_attention* x, int32_t kind, int32_t is_backward) {
  if (kind == 0) return is_backward ? backward<float>(*x) : forward<float>(*x);
#ifdef __AVX512BF16__
  if (kind == 1) return is_backward ? backward<bf16>(*x) : forward<bf16>(*x);
#endif
  return 2;
}
}

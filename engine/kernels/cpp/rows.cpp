// The kernels of `cu/` for the processor, with the same arguments and the same rounding: RMSNorm, rotary embedding, SwiGLU.
// A block is what it is on a GPU; each is computed by one thread in a fixed order.
#include "vectors.h"

#include <cmath>

namespace {

using i64 = int64_t;

// Arguments of a kernel, in order.
struct Arguments {
  void** at;
  template <class T>
  T next() {
    T value;
    std::memcpy(&value, *at++, sizeof(value));
    return value;
  }
};

// Calls `body(i, count)` for the vectors of a row; all but the last are full.
template <class Body>
inline void each(i64 width, Body body) {
  i64 i = 0;
  for (; i + kWidth <= width; i += kWidth) body(i, kWidth);
  if (i < width) body(i, width - i);
}

template <class T>
inline floats get(const T* from, i64 count) {
  return count == kWidth ? load(from) : load_some(from, count);
}

template <class T>
inline void put(T* to, floats x, i64 count) {
  count == kWidth ? store(to, x) : store_some(to, x, count);
}

template <class T>
void rms_norm(i64 blocks, Arguments a) {
  const auto* x = a.next<const T*>();
  const auto* weight = a.next<const T*>();
  auto* y = a.next<T*>();
  auto* inverse = a.next<float*>();
  const auto width = a.next<i64>();
  const auto eps = a.next<float>();
#pragma omp parallel for if (blocks * width > 32768)
  for (i64 row = 0; row < blocks; ++row) {
    const T* from = x + row * width;
    T* to = y + row * width;
    floats squares{};
    each(width, [&](i64 i, i64 count) {
      const floats value = get(from + i, count);
      squares += value * value;
    });
    const float factor = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + eps);
    inverse[row] = factor;
    each(width, [&](i64 i, i64 count) { put(to + i, get(weight + i, count) * as<T>(get(from + i, count) * factor), count); });
  }
}

template <class T>
void rms_norm_input_grad(i64 blocks, Arguments a) {
  const auto* grad = a.next<const T*>();
  const auto* x = a.next<const T*>();
  const auto* weight = a.next<const T*>();
  const auto* inverse = a.next<const float*>();
  auto* dx = a.next<T*>();
  const auto width = a.next<i64>();
#pragma omp parallel for if (blocks * width > 32768)
  for (i64 block = 0; block < blocks; ++block) {
    const i64 row = block * width;
    const float factor = inverse[block];
    floats dots{};
    each(width, [&](i64 i, i64 count) {
      dots += as<T>(get(grad + row + i, count) * get(weight + i, count)) * (get(x + row + i, count) * factor);
    });
    const float mean = sum(dots) / static_cast<float>(width) * factor;
    each(width, [&](i64 i, i64 count) {
      const floats own = as<T>(get(grad + row + i, count) * get(weight + i, count));
      put(dx + row + i, (own - get(x + row + i, count) * mean) * factor, count);
    });
  }
}

template <class T>
void rms_norm_weight_grad(i64 blocks, Arguments a) {
  const auto* grad = a.next<const T*>();
  const auto* x = a.next<const T*>();
  const auto* inverse = a.next<const float*>();
  auto* sums = a.next<float*>();
  const auto rows = a.next<i64>(), width = a.next<i64>(), slab = a.next<i64>();
  const i64 across = (width + 63) / 64;
#pragma omp parallel for if (rows * width > 32768)
  for (i64 block = 0; block < blocks; ++block) {
    const i64 first = block / across * slab, end = first + slab < rows ? first + slab : rows;
    const i64 start = block % across * 64, stop = start + 64 < width ? start + 64 : width;
    for (i64 column = start; column < stop; column += kWidth) {
      const i64 count = stop - column < kWidth ? stop - column : kWidth;
      floats total{};
      for (i64 row = first; row < end; ++row) {
        const i64 at = row * width + column;
        total += as<T>(get(grad + at, count) * as<T>(get(x + at, count) * inverse[row]));
      }
      put(sums + block / across * width + column, total, count);
    }
  }
}

template <class T>
void rope(i64 blocks, Arguments a) {
  const auto* x = a.next<const T*>();
  auto* y = a.next<T*>();
  const auto* cosines = a.next<const T*>();
  const auto* sines = a.next<const T*>();
  const auto x_batch = a.next<i64>(), x_head = a.next<i64>(), x_row = a.next<i64>();
  const auto y_batch = a.next<i64>(), y_head = a.next<i64>(), y_row = a.next<i64>(), angle_stride = a.next<i64>();
  const i64 length = a.next<int>(), heads = a.next<int>(), width = a.next<int>(), dim = a.next<int>(), half = dim / 2;
  const auto direction = a.next<float>();
#pragma omp parallel for if (blocks * heads * width > 32768)
  for (i64 block = 0; block < blocks; ++block) {
    const i64 batch = block / length, row = block % length;
    const T* c = cosines + batch * angle_stride + row * dim;
    const T* s = sines + batch * angle_stride + row * dim;
    for (i64 head = 0; head < heads; ++head) {
      const T* from = x + batch * x_batch + row * x_row + head * x_head;
      T* to = y + batch * y_batch + row * y_row + head * y_head;
      each(half, [&](i64 i, i64 count) {
        const floats first = get(from + i, count), second = get(from + half + i, count);
        put(to + i, first * get(c + i, count) - second * (direction * get(s + i, count)), count);
        put(to + half + i, second * get(c + half + i, count) + first * (direction * get(s + half + i, count)), count);
      });
      if (width > dim) std::memcpy(to + dim, from + dim, (width - dim) * sizeof(T));
    }
  }
}

inline floats sigmoid(floats x) { return 1.0f / (1.0f + exp(-x)); }

// Values of a row that a block of SwiGLU has: `SPAN` of `swiglu.cu`.
constexpr i64 kSpan = 1024;

template <class T, class Body>
inline void spans(i64 blocks, i64 width, Body body) {
  const i64 across = (width + kSpan - 1) / kSpan;
#pragma omp parallel for if (blocks > 32)
  for (i64 block = 0; block < blocks; ++block) {
    const i64 row = block / across, start = block % across * kSpan;
    each(start + kSpan < width ? kSpan : width - start, [&](i64 i, i64 count) { body(row, start + i, count); });
  }
}

template <class T>
void swiglu(i64 blocks, Arguments a) {
  const auto* gate = a.next<const T*>();
  const auto* up = a.next<const T*>();
  auto* y = a.next<T*>();
  const auto gate_stride = a.next<i64>(), up_stride = a.next<i64>(), width = a.next<i64>();
  spans<T>(blocks, width, [=](i64 row, i64 i, i64 count) {
    const floats g = get(gate + row * gate_stride + i, count);
    put(y + row * width + i, as<T>(g * sigmoid(g)) * get(up + row * up_stride + i, count), count);
  });
}

template <class T>
void swiglu_grad(i64 blocks, Arguments a) {
  const auto* grad = a.next<const T*>();
  const auto* gate = a.next<const T*>();
  const auto* up = a.next<const T*>();
  auto* d_gate = a.next<T*>();
  auto* d_up = a.next<T*>();
  const auto gate_stride = a.next<i64>(), up_stride = a.next<i64>(), width = a.next<i64>();
  spans<T>(blocks, width, [=](i64 row, i64 i, i64 count) {
    const floats g = get(gate + row * gate_stride + i, count), gradient = get(grad + row * width + i, count), s = sigmoid(g);
    const floats d_silu = as<T>(gradient * get(up + row * up_stride + i, count));
    put(d_up + row * width + i, gradient * as<T>(g * s), count);
    put(d_gate + row * width + i, d_silu * s * (1.0f + g * (1.0f - s)), count);
  });
}

struct Kernel {
  const char* name;
  void (*run)(i64, Arguments);
};

constexpr Kernel kKernels[] = {
    {"rms_norm_f32", rms_norm<float>},
    {"rms_norm_bf16", rms_norm<bf16>},
    {"rms_norm_input_grad_f32", rms_norm_input_grad<float>},
    {"rms_norm_input_grad_bf16", rms_norm_input_grad<bf16>},
    {"rms_norm_weight_grad_f32", rms_norm_weight_grad<float>},
    {"rms_norm_weight_grad_bf16", rms_norm_weight_grad<bf16>},
    {"rope_f32", rope<float>},
    {"rope_bf16", rope<bf16>},
    {"swiglu_f32", swiglu<float>},
    {"swiglu_bf16", swiglu<bf16>},
    {"swiglu_grad_f32", swiglu_grad<float>},
    {"swiglu_grad_bf16", swiglu_grad<bf16>},
};

// Cross entropy of rows of logits [rows, v]. Each target is a column, or outside of them.
struct Entropy {
  void* logits;
  const i64* targets;
  float* losses;
  i64 rows, v;
  // Whether the logits are replaced by the gradients of the losses.
  int32_t grad;
};

template <class T>
void cross_entropy(const Entropy& x) {
#pragma omp parallel for schedule(dynamic, 8) if (x.rows * x.v > 32768)
  for (i64 row = 0; row < x.rows; ++row) {
    T* logits = static_cast<T*>(x.logits) + row * x.v;
    const i64 target = x.targets[row];
    floats tops = splat(-INFINITY);
    i64 i = 0;
    for (; i + kWidth <= x.v; i += kWidth) tops = max(tops, load(logits + i));
    float top = -INFINITY;
    for (; i < x.v; ++i) top = load1(logits + i) > top ? load1(logits + i) : top;
    for (i64 lane = 0; lane < kWidth; ++lane) top = tops[lane] > top ? tops[lane] : top;
    // Sums of parts, so that many small values are not lost in a large sum.
    float total = 0.0f;
    for (i64 start = 0; start < x.v; start += kSpan) {
      floats sums{};
      each(start + kSpan < x.v ? kSpan : x.v - start, [&](i64 i, i64 count) {
        floats some = exp(get(logits + start + i, count) - top);
        for (i64 lane = count; lane < kWidth; ++lane) some[lane] = 0.0f;
        sums += some;
      });
      total += sum(sums);
    }
    const float own = target >= 0 && target < x.v ? load1(logits + target) : 0.0f;
    x.losses[row] = std::log(total) - (own - top);
    if (!x.grad) continue;
    const float factor = 1.0f / total;
    const float at_target = std::exp(own - top) * factor - 1.0f;
    each(x.v, [&](i64 i, i64 count) { put(logits + i, exp(get(logits + i, count) - top) * factor, count); });
    if (target >= 0 && target < x.v) store1(logits + target, at_target);
  }
}

// fp32 values as halves: `high`, the nearest bfloat16, and `low`, their lower 16 bits.
struct Halves {
  float* values;
  uint16_t* high;
  uint16_t* low;
  i64 count;
};

// Values that a thread has at a time.
constexpr i64 kPiece = 1 << 14;

template <class Body>
inline void pieces(i64 count, Body body) {
#pragma omp parallel for if (count > 2 * kPiece)
  for (i64 start = 0; start < count; start += kPiece) {
    const i64 end = start + kPiece < count ? start + kPiece : count;
    for (i64 i = start; i < end; ++i) body(i);
  }
}

// Of two values that lie halfway between neighbours, the one that was rounded up and the one that was rounded down would have
// the same halves: the latter is replaced by the value before it.
void split(const Halves& x) {
  const auto* values = reinterpret_cast<const uint32_t*>(x.values);
  pieces(x.count, [=](i64 i) {
    const uint32_t bits = values[i], low = bits & 0xffff;
    const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    x.high[i] = is_nan ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    x.low[i] = low - static_cast<uint32_t>(low == 0x8000 && (bits & 0x10000) == 0);
  });
}

void join(const Halves& x) {
  auto* values = reinterpret_cast<uint32_t*>(x.values);
  pieces(x.count, [=](i64 i) {
    // From 0x8000 on, the value was rounded up.
    const uint32_t low = x.low[i];
    values[i] = (static_cast<uint32_t>(x.high[i]) << 16) - ((low & 0x8000) << 1) + low;
  });
}

}  // namespace

#define JOIN_NAMES(a, b) a##_##b
#define JOIN(a, b) JOIN_NAMES(a, b)

extern "C" {

// Runs the kernel of that name; 1 if there is none.
int JOIN(neva_rows, VARIANT)(const char* kernel, uint32_t blocks, void** arguments) {
  for (const auto& known : kKernels) {
    if (std::strcmp(known.name, kernel) == 0) {
      known.run(blocks, Arguments{arguments});
      return 0;
    }
  }
  return 1;
}

// Computes with logits in fp32 (`kind` 0) or in bf16 (1).
void JOIN(neva_cross_entropy, VARIANT)(const Entropy* entropy, int32_t kind) {
  kind == 0 ? cross_entropy<float>(*entropy) : cross_entropy<bf16>(*entropy);
}

// Splits values into halves, or joins them.
void JOIN(neva_halves, VARIANT)(const Halves* halves, int32_t is_join) { is_join ? join(*halves) : split(*halves); }
}

// Rotary position embedding (arXiv:2104.09864), Hugging Face's half-rotation layout.

// Rotates `x` into `y`, both [batch, heads, length, width] with strides of their own and neighbours in the last dim. The
// first `dim` values of a head have angles: `cosines` and `sines` are [batch or 1, length, dim], `angle_stride` apart, or
// 0. The gradient is the rotation back, with `direction` -1. A block has one position.
template <class T>
__device__ inline void rope(const T* x, T* y, const T* cosines, const T* sines, i64 x_batch, i64 x_head, i64 x_row, i64 y_batch,
                            i64 y_head, i64 y_row, i64 angle_stride, int length, int heads, int width, int dim, float direction) {
    const int batch = blockIdx.x / length, row = blockIdx.x % length, half = dim / 2, rest = width - dim;
    x += batch * x_batch + row * x_row;
    y += batch * y_batch + row * y_row;
    cosines += batch * angle_stride + (i64)row * dim;
    sines += batch * angle_stride + (i64)row * dim;
    for (int i = threadIdx.x; i < heads * half; i += THREADS) {
        const int head = i / half, pair = i % half;
        const T* from = x + head * x_head + pair;
        T* to = y + head * y_head + pair;
        const float first = read(from[0]), second = read(from[half]);
        to[0] = Rounded<T>::of(first * read(cosines[pair]) - second * (direction * read(sines[pair])));
        to[half] = Rounded<T>::of(second * read(cosines[pair + half]) + first * (direction * read(sines[pair + half])));
    }
    for (int i = threadIdx.x; i < heads * rest; i += THREADS) {
        const int head = i / rest, own = dim + i % rest;
        y[head * y_head + own] = x[head * x_head + own];
    }
}

#define ROPE(T, suffix)                                                                                                                   \
    extern "C" __global__ void rope_##suffix(const T* x, T* y, const T* cosines, const T* sines, i64 x_batch, i64 x_head, i64 x_row,     \
                                             i64 y_batch, i64 y_head, i64 y_row, i64 angle_stride, int length, int heads, int width,      \
                                             int dim, float direction) {                                                                  \
        rope<T>(x, y, cosines, sines, x_batch, x_head, x_row, y_batch, y_head, y_row, angle_stride, length, heads, width, dim, direction); \
    }

ROPE(float, f32)
ROPE(bf16, bf16)
ROPE(f16, f16)

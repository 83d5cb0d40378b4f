// FP8 casts of matrices: clamp, rounding, transposition and largest magnitude in one pass.

#define TILE 64

// FP8 formats (arXiv:2209.05433).
struct E4m3 {
    static const int mantissa = 3;
    static const int bias = 7;
    __device__ static inline float largest() {
        return 448.0f;
    }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    __device__ static inline u16 pair(float first, float second) {
        u16 codes;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
        return codes;
    }
#endif
};

struct E5m2 {
    static const int mantissa = 2;
    static const int bias = 15;
    __device__ static inline float largest() {
        return 57344.0f;
    }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    __device__ static inline u16 pair(float first, float second) {
        u16 codes;
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
        return codes;
    }
#endif
};

// Rounds to the nearest FP8 value, and to the even one of two. Values beyond the largest one saturate; NaN stays NaN.
template <class F>
__device__ inline u8 encode(float value) {
    const u32 sign = (__float_as_uint(value) >> 24) & 0x80u;
    u32 bits = magnitude(value);
    if (bits > 0x7f800000u) {
        return (u8)(sign | 0x7fu);
    }
    const u32 most = __float_as_uint(F::largest());
    bits = bits > most ? most : bits;
    // Bits of fp32's mantissa that the format lacks.
    const int excess = 23 - F::mantissa;
    const u32 smallest_normal = (u32)(127 + 1 - F::bias) << 23;
    if (bits < smallest_normal) {
        // One unit in the last place of `step` is the distance of subnormal values.
        const float step = __uint_as_float((u32)(127 + 1 - F::bias + excess) << 23);
        return (u8)(sign | (__float_as_uint(__uint_as_float(bits) + step) - __float_as_uint(step)));
    }
    bits += ((1u << (excess - 1)) - 1u) + ((bits >> excess) & 1u);
    return (u8)(sign | ((bits >> excess) - ((u32)(127 - F::bias) << F::mantissa)));
}

// Four neighbours as FP8, the first one in the lowest byte.
template <class F>
__device__ inline u32 encode_four(const float* values) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    return (u32)F::pair(values[0], values[1]) | (u32)F::pair(values[2], values[3]) << 16;
#else
    u32 codes = 0;
    for (int k = 0; k < 4; k++) {
        codes |= (u32)encode<F>(values[k]) << (8 * k);
    }
    return codes;
#endif
}

// Reads four neighbours of `x` `[rows, columns]`; 0 beyond its end. `aligned`: sizes and addresses allow four values at once.
template <class T>
__device__ inline void read_four(const T* x, i64 row, i64 column, i64 rows, i64 columns, int aligned, float* values) {
    for (int k = 0; k < 4; k++) {
        values[k] = 0.0f;
    }
    if (row < rows) {
        const T* from = x + row * columns + column;
        if (aligned && column < columns) {
            const Four<T> four = *(const Four<T>*)from;
            for (int k = 0; k < 4; k++) {
                values[k] = read(four.values[k]);
            }
        } else {
            for (int k = 0; k < 4 && column + k < columns; k++) {
                values[k] = read(from[k]);
            }
        }
    }
}

// Writes four neighbours of `out` `[rows, columns]`; none beyond its end.
__device__ inline void write_four(u8* out, u32 codes, i64 row, i64 column, i64 rows, i64 columns, int aligned) {
    if (row < rows) {
        u8* to = out + row * columns + column;
        if (aligned && column < columns) {
            *(u32*)to = codes;
        } else {
            for (int k = 0; k < 4 && column + k < columns; k++) {
                to[k] = (u8)(codes >> (8 * k));
            }
        }
    }
}

// Keeps four neighbours in a tile.
__device__ inline void keep_four(u8* tile, u32 codes) {
    for (int k = 0; k < 4; k++) {
        tile[k] = (u8)(codes >> (8 * k));
    }
}

// Writes a tile of ROWS x COLUMNS codes to `transposed` `[columns, rows]`.
template <int ROWS, int COLUMNS>
__device__ inline void write_transposed(const u8 (*tile)[COLUMNS + 4], u8* transposed, i64 row0, i64 column0, i64 rows,
                                        i64 columns, int aligned) {
    const int words = ROWS / 4, word = threadIdx.x % words, line = threadIdx.x / words;
    for (int c = line; c < COLUMNS; c += THREADS / words) {
        const i64 column = column0 + c, row = row0 + 4 * word;
        if (column < columns) {
            u8* to = transposed + column * rows + row;
            if (aligned && row < rows) {
                u32 codes = 0;
                for (int k = 0; k < 4; k++) {
                    codes |= (u32)tile[4 * word + k][c] << (8 * k);
                }
                *(u32*)to = codes;
            } else {
                for (int k = 0; k < 4 && row + k < rows; k++) {
                    to[k] = tile[4 * word + k][c];
                }
            }
        }
    }
}

// Quantises `x` `[rows, columns]` into `out`, and if they are not null its transposed matrix into `transposed` and its
// largest magnitude into `amax`. A block has one tile.
template <class T, class F>
__device__ inline void quantize(const T* x, const float* scale, u8* out, u8* transposed, u32* amax, i64 rows, i64 columns, int aligned) {
    __shared__ u8 tile[TILE][TILE + 4];
    const i64 across = (columns + TILE - 1) / TILE;
    const i64 row0 = blockIdx.x / across * TILE, column0 = blockIdx.x % across * TILE;
    const int word = threadIdx.x % 16, line = threadIdx.x / 16;
    const float factor = *scale;
    u32 largest = 0;
    for (int r = line; r < TILE; r += THREADS / 16) {
        const i64 row = row0 + r, column = column0 + 4 * word;
        float values[4];
        read_four(x, row, column, rows, columns, aligned, values);
        for (int k = 0; k < 4; k++) {
            largest = larger(largest, magnitude(values[k]));
            values[k] *= factor;
        }
        const u32 codes = encode_four<F>(values);
        keep_four(&tile[r][4 * word], codes);
        write_four(out, codes, row, column, rows, columns, aligned);
    }
    if (transposed) {
        __syncthreads();
        write_transposed<TILE, TILE>(tile, transposed, row0, column0, rows, columns, aligned);
    }
    if (amax) {
        raise_to_block_max(amax, largest);
    }
}

// Transposes bytes, as FP8 values are. A block has one tile.
extern "C" __global__ void transpose_u8(const u8* x, u8* transposed, i64 rows, i64 columns, int aligned) {
    __shared__ u8 tile[TILE][TILE + 4];
    const i64 across = (columns + TILE - 1) / TILE;
    const i64 row0 = blockIdx.x / across * TILE, column0 = blockIdx.x % across * TILE;
    const int word = threadIdx.x % 16, line = threadIdx.x / 16;
    for (int r = line; r < TILE; r += THREADS / 16) {
        const i64 row = row0 + r, column = column0 + 4 * word;
        if (row < rows) {
            const u8* from = x + row * columns + column;
            if (aligned && column < columns) {
                const u32 codes = *(const u32*)from;
                for (int k = 0; k < 4; k++) {
                    tile[r][4 * word + k] = (u8)(codes >> (8 * k));
                }
            } else {
                for (int k = 0; k < 4 && column + k < columns; k++) {
                    tile[r][4 * word + k] = from[k];
                }
            }
        }
    }
    __syncthreads();
    write_transposed<TILE, TILE>(tile, transposed, row0, column0, rows, columns, aligned);
}

// Raises `amax` to the largest magnitude of `count` values.
template <class T>
__device__ inline void largest_magnitude(const T* x, u32* amax, i64 count) {
    u32 largest = 0;
    for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (i64)gridDim.x * THREADS) {
        largest = larger(largest, magnitude(read(x[i])));
    }
    raise_to_block_max(amax, largest);
}

#define QUANTIZE(name, T, F)                                                                                                        \
    extern "C" __global__ void name(const T* x, const float* scale, u8* out, u8* transposed, u32* amax, i64 rows, i64 columns,     \
                                    int aligned) {                                                                                 \
        quantize<T, F>(x, scale, out, transposed, amax, rows, columns, aligned);                                                   \
    }

QUANTIZE(quantize_e4m3_f32, float, E4m3)
QUANTIZE(quantize_e4m3_bf16, bf16, E4m3)
QUANTIZE(quantize_e4m3_f16, f16, E4m3)
QUANTIZE(quantize_e5m2_f32, float, E5m2)
QUANTIZE(quantize_e5m2_bf16, bf16, E5m2)
QUANTIZE(quantize_e5m2_f16, f16, E5m2)

#define AMAX(name, T)                                                        \
    extern "C" __global__ void name(const T* x, u32* amax, i64 count) {      \
        largest_magnitude<T>(x, amax, count);                                \
    }

AMAX(amax_f32, float)
AMAX(amax_bf16, bf16)
AMAX(amax_f16, f16)

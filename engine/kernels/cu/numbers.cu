// Numbers that kernels read and write, and sums over the threads of a block. NVRTC compiles this without any header.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

// Threads of a block, of every kernel.
#define THREADS 256
#define WARPS (THREADS / 32)
#define ALL_LANES 0xffffffffu

struct bf16 {
    u16 bits;
};

// IEEE half precision.
struct f16 {
    u16 bits;
};

__device__ inline float read(float value) {
    return value;
}

__device__ inline float read(bf16 value) {
    return __uint_as_float((u32)value.bits << 16);
}

__device__ inline float read(f16 value) {
#if defined(__CUDA_ARCH__)
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#else
    const u32 sign = (u32)(value.bits & 0x8000u) << 16, bits = value.bits & 0x7fffu;
    if (bits < 0x0400u) {
        // Subnormal values are multiples of 2^-24.
        const float wide = (float)bits * (1.0f / 16777216.0f);
        return __uint_as_float(__float_as_uint(wide) | sign);
    }
    const u32 bias = bits < 0x7c00u ? 127 - 15 : 255 - 31;
    return __uint_as_float(sign | ((bits << 13) + (bias << 23)));
#endif
}

template <class T>
struct Rounded;

template <>
struct Rounded<float> {
    __device__ static inline float of(float value) {
        return value;
    }
};

template <>
struct Rounded<bf16> {
    // To the nearest value, and to the even one of two; NaN stays NaN.
    __device__ static inline bf16 of(float value) {
        bf16 rounded;
#if defined(__CUDA_ARCH__)
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
#else
        const u32 bits = __float_as_uint(value);
        const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
        rounded.bits = is_nan ? (u16)0x7fc0 : (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
        return rounded;
    }
};

template <>
struct Rounded<f16> {
    // As above; values from 65520 on are infinite.
    __device__ static inline f16 of(float value) {
        f16 rounded;
#if defined(__CUDA_ARCH__)
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
#else
        const u32 sign = (__float_as_uint(value) >> 16) & 0x8000u;
        const u32 bits = __float_as_uint(value) & 0x7fffffffu;
        if (bits > 0x7f800000u) {
            rounded.bits = (u16)(sign | 0x7fffu);
        } else if (bits >= 0x477ff000u) {
            rounded.bits = (u16)(sign | 0x7c00u);
        } else if (bits < 0x38800000u) {
            // One unit in the last place of 0.5 is 2^-24, the distance of subnormal values.
            const float sum = __uint_as_float(bits) + 0.5f;
            rounded.bits = (u16)(sign | (__float_as_uint(sum) - __float_as_uint(0.5f)));
        } else {
            const u32 even = bits + 0xfffu + ((bits >> 13) & 1u);
            rounded.bits = (u16)(sign | ((even >> 13) - ((127u - 15u) << 10)));
        }
#endif
        return rounded;
    }
};

// Rounds to T and back: a formula of libtorch rounds each of its steps.
template <class T>
__device__ inline float round_to(float value) {
    return read(Rounded<T>::of(value));
}

// Four neighbours, which one instruction reads if their address allows it.
template <class T>
struct alignas(4 * sizeof(T)) Four {
    T values[4];
};

// Returns the sum over all threads of the block, to each of them. The order of the sum is fixed.
__device__ inline float block_sum(float value) {
    __shared__ float sums[WARPS];
    for (int offset = 16; offset > 0; offset /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, offset);
    }
    const int lane = threadIdx.x % 32;
    if (lane == 0) {
        sums[threadIdx.x / 32] = value;
    }
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < WARPS; warp++) {
        sum += sums[warp];
    }
    // The next call writes `sums` again.
    __syncthreads();
    return sum;
}

// Returns the larger one.
__device__ inline u32 larger(u32 first, u32 second) {
    return first > second ? first : second;
}

// Returns the largest value of LANES neighbouring threads of a warp, to each of them.
template <int LANES>
__device__ inline u32 lanes_max(u32 value) {
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        value = larger(value, __shfl_xor_sync(ALL_LANES, value, offset));
    }
    return value;
}

// Returns the largest value of the block's threads, to each of them.
__device__ inline u32 block_max(u32 value) {
    __shared__ u32 largest[WARPS];
    value = lanes_max<32>(value);
    if (threadIdx.x % 32 == 0) {
        largest[threadIdx.x / 32] = value;
    }
    __syncthreads();
    for (int warp = 0; warp < WARPS; warp++) {
        value = larger(value, largest[warp]);
    }
    // The next call writes `largest` again.
    __syncthreads();
    return value;
}

// Raises `*target` to the largest magnitude of the block. Magnitudes are compared as bits. NaN counts as infinity.
__device__ inline void raise_to_block_max(u32* target, u32 value) {
    const u32 infinity = 0x7f800000u;
    value = block_max(value);
    if (threadIdx.x == 0) {
        atomicMax(target, value > infinity ? infinity : value);
    }
}

// Bits of a value's magnitude.
__device__ inline u32 magnitude(float value) {
    return __float_as_uint(value) & 0x7fffffffu;
}

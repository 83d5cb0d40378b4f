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

__device__ inline float read(float value) {
    return value;
}

__device__ inline float read(bf16 value) {
    return __uint_as_float((u32)value.bits << 16);
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

// Raises `*target` to the largest magnitude of the block. Magnitudes are compared as bits. NaN counts as infinity.
__device__ inline void raise_to_block_max(u32* target, u32 value) {
    __shared__ u32 largest[WARPS];
    for (int offset = 16; offset > 0; offset /= 2) {
        const u32 other = __shfl_xor_sync(ALL_LANES, value, offset);
        value = other > value ? other : value;
    }
    if (threadIdx.x % 32 == 0) {
        largest[threadIdx.x / 32] = value;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < WARPS; warp++) {
            value = largest[warp] > value ? largest[warp] : value;
        }
        const u32 infinity = 0x7f800000u;
        atomicMax(target, value > infinity ? infinity : value);
    }
    __syncthreads();
}

// Bits of a value's magnitude.
__device__ inline u32 magnitude(float value) {
    return __float_as_uint(value) & 0x7fffffffu;
}

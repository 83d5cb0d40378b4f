// RMSNorm over the last dim (arXiv:1910.07467), rounded as transformers.LlamaRMSNorm: statistics in fp32, the weight
// applied in the input's data type.

// A block has one row. `inverse` gets 1 / sqrt(mean(x^2) + eps) for the backward pass.
template <class T>
__device__ inline void rms_norm(const T* x, const T* weight, T* y, float* inverse, i64 width, float eps) {
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    float squares = 0.0f;
    for (i64 i = threadIdx.x; i < width; i += THREADS) {
        const float value = read(x[i]);
        squares += value * value;
    }
    const float factor = 1.0f / sqrtf(block_sum(squares) / (float)width + eps);
    if (threadIdx.x == 0) {
        inverse[blockIdx.x] = factor;
    }
    for (i64 i = threadIdx.x; i < width; i += THREADS) {
        y[i] = Rounded<T>::of(read(weight[i]) * round_to<T>(read(x[i]) * factor));
    }
}

// Gradient of the input; a block has one row.
template <class T>
__device__ inline void rms_norm_input_grad(const T* grad, const T* x, const T* weight, const float* inverse, T* dx, i64 width) {
    const i64 row = blockIdx.x * width;
    const float factor = inverse[blockIdx.x];
    float dot = 0.0f;
    for (i64 i = threadIdx.x; i < width; i += THREADS) {
        dot += round_to<T>(read(grad[row + i]) * read(weight[i])) * (read(x[row + i]) * factor);
    }
    const float mean = block_sum(dot) / (float)width;
    for (i64 i = threadIdx.x; i < width; i += THREADS) {
        const float own = round_to<T>(read(grad[row + i]) * read(weight[i]));
        dx[row + i] = Rounded<T>::of((own - read(x[row + i]) * factor * mean) * factor);
    }
}

// Gradient of the weight, summed over slabs of `slab` rows: `sums` is [slabs, width]. A block has 64 columns of a slab.
template <class T>
__device__ inline void rms_norm_weight_grad(const T* grad, const T* x, const float* inverse, float* sums, i64 rows, i64 width, i64 slab) {
    __shared__ float lines[4][64];
    const i64 across = (width + 63) / 64;
    const int line = threadIdx.x / 64, own = threadIdx.x % 64;
    const i64 column = blockIdx.x % across * 64 + own, first = blockIdx.x / across * slab;
    const i64 end = first + slab < rows ? first + slab : rows;
    float sum = 0.0f;
    if (column < width) {
        for (i64 row = first + line; row < end; row += 4) {
            const i64 at = row * width + column;
            sum += round_to<T>(read(grad[at]) * round_to<T>(read(x[at]) * inverse[row]));
        }
    }
    lines[line][own] = sum;
    __syncthreads();
    if (line == 0 && column < width) {
        sums[blockIdx.x / across * width + column] = lines[0][own] + lines[1][own] + lines[2][own] + lines[3][own];
    }
}

#define RMS_NORM(T, suffix)                                                                                                              \
    extern "C" __global__ void rms_norm_##suffix(const T* x, const T* weight, T* y, float* inverse, i64 width, float eps) {             \
        rms_norm<T>(x, weight, y, inverse, width, eps);                                                                                  \
    }                                                                                                                                    \
    extern "C" __global__ void rms_norm_input_grad_##suffix(const T* grad, const T* x, const T* weight, const float* inverse, T* dx,    \
                                                            i64 width) {                                                                 \
        rms_norm_input_grad<T>(grad, x, weight, inverse, dx, width);                                                                     \
    }                                                                                                                                    \
    extern "C" __global__ void rms_norm_weight_grad_##suffix(const T* grad, const T* x, const float* inverse, float* sums, i64 rows,    \
                                                             i64 width, i64 slab) {                                                      \
        rms_norm_weight_grad<T>(grad, x, inverse, sums, rows, width, slab);                                                              \
    }

RMS_NORM(float, f32)
RMS_NORM(bf16, bf16)
RMS_NORM(f16, f16)

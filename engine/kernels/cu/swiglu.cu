// SwiGLU (arXiv:2002.05202): silu(gate) * up, rounded after each of the two operations.

// Values of a row that a block has.
#define SPAN (4 * THREADS)

// `gate` and `up` are rows `gate_stride` and `up_stride` apart; `y` is contiguous. A block has a part of one row.
template <class T>
__device__ inline void swiglu(const T* gate, const T* up, T* y, i64 gate_stride, i64 up_stride, i64 width) {
    const i64 across = (width + SPAN - 1) / SPAN, row = blockIdx.x / across, start = blockIdx.x % across * SPAN;
    const i64 end = start + SPAN < width ? start + SPAN : width;
    for (i64 i = start + threadIdx.x; i < end; i += THREADS) {
        const float g = read(gate[row * gate_stride + i]);
        const float silu = round_to<T>(g / (1.0f + expf(-g)));
        y[row * width + i] = Rounded<T>::of(silu * read(up[row * up_stride + i]));
    }
}

// Gradients of both inputs, contiguous like `grad`.
template <class T>
__device__ inline void swiglu_grad(const T* grad, const T* gate, const T* up, T* d_gate, T* d_up, i64 gate_stride, i64 up_stride,
                                   i64 width) {
    const i64 across = (width + SPAN - 1) / SPAN, row = blockIdx.x / across, start = blockIdx.x % across * SPAN;
    const i64 end = start + SPAN < width ? start + SPAN : width;
    for (i64 i = start + threadIdx.x; i < end; i += THREADS) {
        const float g = read(gate[row * gate_stride + i]), gradient = read(grad[row * width + i]);
        const float sigmoid = 1.0f / (1.0f + expf(-g));
        const float d_silu = round_to<T>(gradient * read(up[row * up_stride + i]));
        d_up[row * width + i] = Rounded<T>::of(gradient * round_to<T>(g * sigmoid));
        d_gate[row * width + i] = Rounded<T>::of(d_silu * sigmoid * (1.0f + g * (1.0f - sigmoid)));
    }
}

#define SWIGLU(T, suffix)                                                                                                             \
    extern "C" __global__ void swiglu_##suffix(const T* gate, const T* up, T* y, i64 gate_stride, i64 up_stride, i64 width) {        \
        swiglu<T>(gate, up, y, gate_stride, up_stride, width);                                                                        \
    }                                                                                                                                 \
    extern "C" __global__ void swiglu_grad_##suffix(const T* grad, const T* gate, const T* up, T* d_gate, T* d_up, i64 gate_stride,  \
                                                    i64 up_stride, i64 width) {                                                       \
        swiglu_grad<T>(grad, gate, up, d_gate, d_up, gate_stride, up_stride, width);                                                  \
    }

SWIGLU(float, f32)
SWIGLU(bf16, bf16)
SWIGLU(f16, f16)

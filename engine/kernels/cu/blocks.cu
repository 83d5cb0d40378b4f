// FP8 casts of matrices with a scale, a power of 2, for each block of 32, 128 or 128x128 values.

#define BLOCK 128

// Threads of a warp have 128 values of a row, four neighbours each.
#define BLOCK_WORDS (BLOCK / 4)

// Returns the scale of a block whose largest magnitude has these bits: 1 if it is 0 or not finite, and otherwise the largest
// power of 2 by which it stays in the format.
template <class F>
__device__ inline float block_scale(u32 amax) {
    if (amax == 0 || amax >= 0x7f800000u) {
        return 1.0f;
    }
    const u32 bits = __float_as_uint(F::largest() / __uint_as_float(amax)), most = 0x7f7fffffu;
    return __uint_as_float((bits > most ? most : bits) & 0xff800000u);
}

// Quantises `x` `[rows, columns]` into `out` with a scale for each 1xSIZE block, and if `transposed` is not null its transposed
// matrix with a scale for each 1xSIZE block of that. `inverse` is `[rows, blocks]`, `transposed_inverse` `[columns, blocks]`. A
// block of threads has SIZEx128 values, which it reads twice.
template <class T, class F, int SIZE>
__device__ inline void quantize_rows(const T* x, u8* out, float* inverse, u8* transposed, float* transposed_inverse, i64 rows,
                                     i64 columns, int aligned) {
    // Blocks of the matrix beside each other.
    const int beside = BLOCK / SIZE;
    __shared__ u8 tile[SIZE][BLOCK + 4];
    __shared__ u32 largest_by_warp[WARPS][BLOCK];
    __shared__ float row_scales[SIZE][beside], column_scales[BLOCK];
    const i64 tiles_across = (columns + BLOCK - 1) / BLOCK;
    const i64 across = (columns + SIZE - 1) / SIZE, down = (rows + SIZE - 1) / SIZE;
    const i64 tile_row = blockIdx.x / tiles_across, tile_column = blockIdx.x % tiles_across;
    const i64 row0 = tile_row * SIZE, column0 = tile_column * BLOCK;
    const int word = threadIdx.x % BLOCK_WORDS, warp = threadIdx.x / BLOCK_WORDS, own_block = word / (SIZE / 4);
    const i64 column = column0 + 4 * word;
    u32 largest[4] = {0, 0, 0, 0};
    for (int r = warp; r < SIZE; r += WARPS) {
        float values[4];
        read_four(x, row0 + r, column, rows, columns, aligned, values);
        u32 of_row = 0;
        for (int k = 0; k < 4; k++) {
            const u32 bits = magnitude(values[k]);
            of_row = larger(of_row, bits);
            largest[k] = larger(largest[k], bits);
        }
        of_row = lanes_max<SIZE / 4>(of_row);
        if (word % (SIZE / 4) == 0) {
            row_scales[r][own_block] = block_scale<F>(of_row);
        }
    }
    for (int k = 0; k < 4; k++) {
        largest_by_warp[warp][4 * word + k] = largest[k];
    }
    __syncthreads();
    if (threadIdx.x < BLOCK) {
        const int own = threadIdx.x, r = own / beside, b = own % beside;
        u32 of_column = 0;
        for (int other = 0; other < WARPS; other++) {
            of_column = larger(of_column, largest_by_warp[other][own]);
        }
        column_scales[own] = block_scale<F>(of_column);
        const i64 block_column = tile_column * beside + b;
        if (row0 + r < rows && block_column < across) {
            inverse[(row0 + r) * across + block_column] = 1.0f / row_scales[r][b];
        }
        if (transposed && column0 + own < columns) {
            transposed_inverse[(column0 + own) * down + tile_row] = 1.0f / column_scales[own];
        }
    }
    __syncthreads();
    for (int r = warp; r < SIZE; r += WARPS) {
        float values[4], by_row[4], by_column[4];
        read_four(x, row0 + r, column, rows, columns, aligned, values);
        for (int k = 0; k < 4; k++) {
            by_row[k] = values[k] * row_scales[r][own_block];
            by_column[k] = values[k] * column_scales[4 * word + k];
        }
        write_four(out, encode_four<F>(by_row), row0 + r, column, rows, columns, aligned);
        keep_four(&tile[r][4 * word], encode_four<F>(by_column));
    }
    if (transposed) {
        __syncthreads();
        write_transposed<SIZE, BLOCK>(tile, transposed, row0, column0, rows, columns, aligned);
    }
}

// Quantises `x` `[rows, columns]` into `out` with a scale for each 128x128 block, and if it is not null its transposed matrix
// into `transposed`: with the same scales. `inverse` is `[blocks, blocks]`. A block of threads has one block.
template <class T, class F>
__device__ inline void quantize_squares(const T* x, u8* out, float* inverse, u8* transposed, i64 rows, i64 columns, int aligned) {
    __shared__ u8 tile[BLOCK][BLOCK + 4];
    const i64 across = (columns + BLOCK - 1) / BLOCK;
    const i64 row0 = blockIdx.x / across * BLOCK, column0 = blockIdx.x % across * BLOCK;
    const int word = threadIdx.x % BLOCK_WORDS, warp = threadIdx.x / BLOCK_WORDS;
    const i64 column = column0 + 4 * word;
    u32 largest = 0;
    for (int r = warp; r < BLOCK; r += WARPS) {
        float values[4];
        read_four(x, row0 + r, column, rows, columns, aligned, values);
        for (int k = 0; k < 4; k++) {
            largest = larger(largest, magnitude(values[k]));
        }
    }
    const float scale = block_scale<F>(block_max(largest));
    if (threadIdx.x == 0) {
        inverse[blockIdx.x] = 1.0f / scale;
    }
    for (int r = warp; r < BLOCK; r += WARPS) {
        float values[4];
        read_four(x, row0 + r, column, rows, columns, aligned, values);
        for (int k = 0; k < 4; k++) {
            values[k] *= scale;
        }
        const u32 codes = encode_four<F>(values);
        write_four(out, codes, row0 + r, column, rows, columns, aligned);
        keep_four(&tile[r][4 * word], codes);
    }
    if (transposed) {
        __syncthreads();
        write_transposed<BLOCK, BLOCK>(tile, transposed, row0, column0, rows, columns, aligned);
    }
}

#define QUANTIZE_ROWS(name, T, F, SIZE)                                                                                         \
    extern "C" __global__ void name(const T* x, u8* out, float* inverse, u8* transposed, float* transposed_inverse, i64 rows,  \
                                    i64 columns, int aligned) {                                                                \
        quantize_rows<T, F, SIZE>(x, out, inverse, transposed, transposed_inverse, rows, columns, aligned);                    \
    }

QUANTIZE_ROWS(quantize_rows_e4m3_f32, float, E4m3, BLOCK)
QUANTIZE_ROWS(quantize_rows_e4m3_bf16, bf16, E4m3, BLOCK)
QUANTIZE_ROWS(quantize_rows_e4m3_f16, f16, E4m3, BLOCK)
QUANTIZE_ROWS(quantize_rows_e5m2_f32, float, E5m2, BLOCK)
QUANTIZE_ROWS(quantize_rows_e5m2_bf16, bf16, E5m2, BLOCK)
QUANTIZE_ROWS(quantize_rows_e5m2_f16, f16, E5m2, BLOCK)
QUANTIZE_ROWS(quantize_rows32_e4m3_f32, float, E4m3, 32)
QUANTIZE_ROWS(quantize_rows32_e4m3_bf16, bf16, E4m3, 32)
QUANTIZE_ROWS(quantize_rows32_e4m3_f16, f16, E4m3, 32)
QUANTIZE_ROWS(quantize_rows32_e5m2_f32, float, E5m2, 32)
QUANTIZE_ROWS(quantize_rows32_e5m2_bf16, bf16, E5m2, 32)
QUANTIZE_ROWS(quantize_rows32_e5m2_f16, f16, E5m2, 32)

#define QUANTIZE_SQUARES(name, T, F)                                                                                            \
    extern "C" __global__ void name(const T* x, u8* out, float* inverse, u8* transposed, i64 rows, i64 columns, int aligned) {  \
        quantize_squares<T, F>(x, out, inverse, transposed, rows, columns, aligned);                                           \
    }

QUANTIZE_SQUARES(quantize_squares_e4m3_f32, float, E4m3)
QUANTIZE_SQUARES(quantize_squares_e4m3_bf16, bf16, E4m3)
QUANTIZE_SQUARES(quantize_squares_e4m3_f16, f16, E4m3)

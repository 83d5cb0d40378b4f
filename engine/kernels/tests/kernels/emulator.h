// A GPU of one processor, for the kernels' own source: the threads of a block take turns at each barrier, and blocks run one
// after another. A barrier that not all threads of a block reach ends the program with a message.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
// Blocks run one after another.
#define __shared__ static

struct Index {
    unsigned x, y, z;
};

static Index threadIdx, blockIdx, gridDim;

namespace emulator {
const unsigned threads = 256;
const size_t stack_bytes = 64 << 10;

enum Place { running, at_barrier, at_shuffle, ended };

struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(stack_bytes);
    Place place = running;
};

static ucontext_t scheduler;
static std::vector<Thread> block(threads);
static unsigned slots[threads];
static void (*entry)(void**);
static void** entry_arguments;

inline void stop_at(Place place) {
    Thread& thread = block[threadIdx.x];
    thread.place = place;
    swapcontext(&thread.context, &scheduler);
}

inline void body() {
    entry(entry_arguments);
    block[threadIdx.x].place = ended;
    swapcontext(&block[threadIdx.x].context, &scheduler);
}

// Runs all threads from barrier to barrier.
inline void run_block() {
    for (unsigned i = 0; i < threads; i++) {
        getcontext(&block[i].context);
        block[i].context.uc_stack.ss_sp = block[i].stack.data();
        block[i].context.uc_stack.ss_size = stack_bytes;
        block[i].context.uc_link = nullptr;
        block[i].place = running;
        makecontext(&block[i].context, body, 0);
    }
    for (;;) {
        for (unsigned i = 0; i < threads; i++) {
            threadIdx = {i, 0, 0};
            swapcontext(&scheduler, &block[i].context);
        }
        for (unsigned i = 1; i < threads; i++) {
            if (block[i].place != block[0].place) {
                fprintf(stderr, "emulator: threads 0 and %u of block %u are at different barriers\n", i, blockIdx.x);
                abort();
            }
        }
        if (block[0].place == ended) {
            return;
        }
    }
}

// Calls `kernel` with arguments behind pointers, as CUDA's driver does.
template <class... A, size_t... I>
inline void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}

template <class... A>
inline void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>{});
}

template <auto kernel>
void entry_of(void** arguments) {
    call(kernel, arguments);
}
}  // namespace emulator

inline void __syncthreads() {
    emulator::stop_at(emulator::at_barrier);
}

template <class T>
inline T __shfl_xor_sync(unsigned, T value, int offset) {
    static_assert(sizeof(T) == sizeof(unsigned), "a shuffle moves 32 bits");
    memcpy(&emulator::slots[threadIdx.x], &value, sizeof(T));
    emulator::stop_at(emulator::at_shuffle);
    T other;
    memcpy(&other, &emulator::slots[threadIdx.x ^ offset], sizeof(T));
    // Nobody writes the next value before all have read this one.
    emulator::stop_at(emulator::at_shuffle);
    return other;
}

inline unsigned atomicMax(unsigned* target, unsigned value) {
    const unsigned old = *target;
    *target = value > old ? value : old;
    return old;
}

inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

// CPU allocators: one that counts the allocated bytes, and one whose freed blocks serve the next request of their size.
#include "status.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <c10/core/impl/alloc_cpu.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace {

std::atomic<int64_t> live{0};
std::atomic<int64_t> peak{0};

void count(int64_t bytes) {
  const int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t seen = peak.load(std::memory_order_relaxed);
  while (now > seen && !peak.compare_exchange_weak(seen, now, std::memory_order_relaxed)) {
  }
}

// A header before each block holds its size. The header is as wide as the alignment that libtorch guarantees.
// Thus the context of a DataPtr is the data pointer itself, which c10 requires in `raw_allocate` and for shared
// storages.
constexpr size_t kHeader = c10::gAlignment;

void release(void* data) {
  if (!data) return;
  char* block = static_cast<char*>(data) - kHeader;
  count(-*reinterpret_cast<int64_t*>(block));
  c10::free_cpu(block);
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, c10::Device(c10::kCPU)};
    char* block = static_cast<char*>(c10::alloc_cpu(bytes + kHeader));
    *reinterpret_cast<int64_t*>(block) = static_cast<int64_t>(bytes);
    count(static_cast<int64_t>(bytes));
    return {block + kHeader, block + kHeader, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

// libtorch calls posix_memalign. That of glibc asks itself for more than the size, to align the block, and gives the rest back: a
// freed block is too small for the next request of its size, and the heap of a training grows. malloc reuses blocks
// exactly. So the block is aligned here, and its own address lies before the aligned one.
void* align(void* block) {
  const auto address = (reinterpret_cast<uintptr_t>(block) + c10::gAlignment) & ~(uintptr_t{c10::gAlignment} - 1);
  auto* aligned = reinterpret_cast<void**>(address);
  // malloc aligns by 16, so there is room for an address.
  aligned[-1] = block;
  return aligned;
}

// oneDNN's tensors in libtorch (`cpu_alloc` of ideep) ask for memory and give it back by whichever allocator there is then. So one
// that lived while this allocator was installed comes here with a block of libtorch's own. Before such a block stands glibc's
// record of its size, which is no address.
void release_block(void* data) {
  if (!data) return;
  void* block = static_cast<void**>(data)[-1];
  const auto distance = reinterpret_cast<uintptr_t>(data) - reinterpret_cast<uintptr_t>(block);
  if (distance > 0 && distance <= c10::gAlignment) {
    std::free(block);
  } else {
    c10::free_cpu(data);
  }
}

class ReusingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release_block, c10::Device(c10::kCPU)};
    TORCH_CHECK(bytes <= SIZE_MAX / 2, "alloc_cpu() seems to have been called with a negative number of bytes");
    void* block = std::malloc(bytes + c10::gAlignment);
    TORCH_CHECK(block, "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", bytes, " bytes.");
    void* data = align(block);
    return {data, data, &release_block, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_block; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

extern "C" {

neva_status neva_allocator_reuse() {
  return neva::guard([] {
    // Never destroyed: tensors may outlive main. The counting allocator has a higher priority.
    static auto* allocator = new ReusingAllocator;
    c10::SetCPUAllocator(allocator, /*priority=*/100);
  });
}

neva_status neva_allocator_install() {
  return neva::guard([] {
    // Never destroyed: tensors may outlive main.
    static auto* allocator = [] {
      auto* made = new CountingAllocator;
      c10::SetCPUAllocator(made, /*priority=*/255);
      return made;
    }();
    TORCH_CHECK(c10::GetCPUAllocator() == allocator, "another CPU allocator was installed after the counting allocator");
  });
}

int64_t neva_allocator_live() { return live.load(std::memory_order_relaxed); }
int64_t neva_allocator_peak() { return peak.load(std::memory_order_relaxed); }
void neva_allocator_reset_peak() { peak.store(live.load(std::memory_order_relaxed), std::memory_order_relaxed); }

}  // extern "C"

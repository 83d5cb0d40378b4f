// Process-wide settings of libtorch, and the version and file of the loaded libtorch.
#include "status.h"

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <c10/util/Logging.h>

#include <dlfcn.h>
#include <unistd.h>

namespace {

std::string libtorch_file() {
  Dl_info cpu{};
  TORCH_CHECK(dladdr(reinterpret_cast<void*>(&at::show_config), &cpu) && cpu.dli_fname,
              "cannot find the file that libtorch_cpu.so was loaded from");
  return cpu.dli_fname;
}

}  // namespace

extern "C" {

neva_status neva_set_float32_matmul_precision(const char* name) {
  return neva::guard([&] { at::globalContext().setFloat32MatmulPrecision(name); });
}

neva_status neva_forbid_tf32() {
  return neva::guard([] {
    at::globalContext().setFloat32MatmulPrecision("highest");
    // Unlike cuBLAS, cuDNN may round to TF32 unless it is forbidden.
    at::globalContext().setAllowTF32CuDNN(false);
  });
}

neva_status neva_allows_tf32(bool* allows) {
  return neva::guard([&] {
    const auto& context = at::globalContext();
    auto is_tf32 = [&](at::Float32Op op) {
      return context.float32Precision(at::Float32Backend::CUDA, op) == at::Float32Precision::TF32;
    };
    *allows = is_tf32(at::Float32Op::CONV) || is_tf32(at::Float32Op::RNN) || is_tf32(at::Float32Op::MATMUL);
  });
}

neva_status neva_set_deterministic_algorithms(bool on) {
  return neva::guard([&] {
    at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/false);
    // Filling new tensors with NaN detects reads of uninitialized memory; determinism does not need it.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}

// Kernels that `scaled_dot_product_attention` may choose on a GPU; the CPU knows flash and math.
neva_status neva_set_attention_kernels(bool flash, bool efficient, bool cudnn, bool math) {
  return neva::guard([&] {
    at::globalContext().setSDPUseFlash(flash);
    at::globalContext().setSDPUseMemEfficient(efficient);
    at::globalContext().setSDPUseCuDNN(cudnn);
    at::globalContext().setSDPUseMath(math);
  });
}

void neva_set_log_level(int level) { FLAGS_caffe2_log_level = level; }

// `*text` is allocated with malloc.
neva_status neva_show_config(char** text) {
  return neva::guard([&] { *text = strdup(at::show_config().c_str()); });
}

// `*path` is allocated with malloc.
neva_status neva_libtorch_file(char** path) {
  return neva::guard([&] { *path = strdup(libtorch_file().c_str()); });
}

// Loads libtorch_cuda.so from the folder of the loaded libtorch_cpu.so, if it exists.
neva_status neva_load_cuda(bool* loaded) {
  return neva::guard([&] {
    auto path = libtorch_file();
    path.replace(path.rfind('/') + 1, std::string::npos, "libtorch_cuda.so");
    *loaded = access(path.c_str(), F_OK) == 0;
    if (*loaded) TORCH_CHECK(dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL), "cannot load ", path, ": ", dlerror());
  });
}

}  // extern "C"

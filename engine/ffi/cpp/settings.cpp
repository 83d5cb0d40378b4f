// Settings of the whole process, and which libtorch it runs on.
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
              "cannot tell where libtorch_cpu.so was loaded from");
  return cpu.dli_fname;
}

}  // namespace

extern "C" {

neva_status neva_set_float32_matmul_precision(const char* name) {
  return neva::guard([&] { at::globalContext().setFloat32MatmulPrecision(name); });
}

neva_status neva_set_deterministic_algorithms(bool on) {
  return neva::guard([&] {
    at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/false);
    // Filling every new tensor with NaN finds reads of unwritten memory; it is not needed for equal bits.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
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

// Loads libtorch_cuda.so from the folder that libtorch_cpu.so was loaded from, if it is there.
neva_status neva_load_cuda(bool* loaded) {
  return neva::guard([&] {
    auto path = libtorch_file();
    path.replace(path.rfind('/') + 1, std::string::npos, "libtorch_cuda.so");
    *loaded = access(path.c_str(), F_OK) == 0;
    if (*loaded) TORCH_CHECK(dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL), "cannot load ", path, ": ", dlerror());
  });
}

}  // extern "C"

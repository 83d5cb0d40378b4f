// Counts the operators that libtorch dispatches on a thread.
#include "status.h"

#include <ATen/record_function.h>

#include <memory>

namespace {

thread_local uint64_t operators = 0;

std::unique_ptr<at::ObserverContext> count(const at::RecordFunction&) {
  ++operators;
  return nullptr;
}

}  // namespace

extern "C" {

neva_status neva_operators_start(uint64_t* handle) {
  return neva::guard([&] {
    operators = 0;
    *handle = at::addThreadLocalCallback(at::RecordFunctionCallback(&count).scopes({at::RecordScope::FUNCTION}));
  });
}

neva_status neva_operators_stop(uint64_t handle, uint64_t* counted) {
  return neva::guard([&] {
    at::removeCallback(handle);
    *counted = operators;
  });
}

}  // extern "C"

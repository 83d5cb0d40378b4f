// Rules of calls between C++ and Rust:
//
// * No C++ exception leaves an `extern "C"` function: `neva::guard` turns each into a `neva_status`.
// * No Rust panic or error crosses C++ frames: a callback returns a `neva_status`, `neva::check` throws
//   it as a `neva::CallbackFailure`, and the guard around the outer call returns it unchanged.
// * A `message` is allocated with malloc, and the receiver frees it.
// * A null `at::Tensor*` in a list means an undefined tensor.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

enum neva_kind : int32_t { NEVA_OK = 0, NEVA_TORCH = 1, NEVA_CALLBACK = 2, NEVA_PANIC = 3 };

struct neva_status {
  int32_t kind;
  char* message;
};

namespace neva {

// Exception for a failed Rust callback: it passes through libtorch to the guard of the outer call.
class CallbackFailure : public std::exception {
 public:
  CallbackFailure(int32_t kind, std::string message) : kind_(kind), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  int32_t kind() const { return kind_; }

 private:
  int32_t kind_;
  std::string message_;
};

inline void check(neva_status status) {
  if (status.kind == NEVA_OK) return;
  std::string message = status.message ? status.message : "out of memory";
  std::free(status.message);
  throw CallbackFailure(status.kind, std::move(message));
}

template <class Body>
neva_status guard(Body&& body) noexcept {
  try {
    body();
    return {NEVA_OK, nullptr};
  } catch (const CallbackFailure& failure) {
    return {failure.kind(), strdup(failure.what())};
  } catch (const c10::Error& error) {
    return {NEVA_TORCH, strdup(error.what_without_backtrace())};
  } catch (const std::exception& error) {
    return {NEVA_TORCH, strdup(error.what())};
  } catch (...) {
    return {NEVA_TORCH, strdup("an exception that is not a std::exception")};
  }
}

inline std::vector<at::Tensor> list(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i) out.push_back(tensors[i] ? *tensors[i] : at::Tensor());
  return out;
}

}  // namespace neva

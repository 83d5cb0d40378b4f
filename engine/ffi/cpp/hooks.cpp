// Post-accumulate-gradient hooks that call Rust.
#include "status.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>

namespace autograd = torch::autograd;

extern "C" {
struct neva_hook_callbacks {
  neva_status (*call)(void* context);
  bool (*active)(void* context);
  void (*drop)(void* context);
};
}

namespace {

class RustHook final : public autograd::PostAccumulateGradHook {
 public:
  RustHook(void* context, neva_hook_callbacks callbacks) : context_(context), callbacks_(callbacks) {}
  ~RustHook() override { callbacks_.drop(context_); }
  void operator()(const autograd::Variable&) override { neva::check(callbacks_.call(context_)); }
  bool active() const { return callbacks_.active(context_); }

 private:
  void* context_;
  neva_hook_callbacks callbacks_;
};

}  // namespace

extern "C" {

// libtorch has one such hook per tensor. If the tensor already has an active hook, that hook stays and `*occupied` is
// true. Always takes ownership of `context`.
neva_status neva_hook_install(at::Tensor* parameter, void* context, neva_hook_callbacks callbacks, bool* occupied) {
  return neva::guard([&] {
    auto hook = std::make_unique<RustHook>(context, callbacks);
    const auto& present = autograd::impl::post_acc_grad_hooks(*parameter);
    const auto* ours = dynamic_cast<const RustHook*>(present.get());
    *occupied = present && (!ours || ours->active());
    if (!*occupied) autograd::impl::set_post_acc_grad_hooks(*parameter, std::move(hook));
  });
}

}  // extern "C"

// Kernels over lists of tensors: fused AdamW and the foreach kernels.
#include "status.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adamw.h>

#include <optional>

namespace {

// Parameters require gradients and are updated in place, which autograd must not record.
template <class Body>
neva_status without_grad(Body&& body) {
  return neva::guard([&] {
    at::NoGradGuard no_grad;
    body();
  });
}

std::optional<at::Tensor> optional(at::Tensor* tensor) {
  return tensor ? std::optional<at::Tensor>(*tensor) : std::nullopt;
}

}  // namespace

extern "C" {

struct neva_adamw {
  double lr, beta1, beta2, eps, weight_decay;
  bool maximize;
};

// As torch.optim.AdamW(fused=True): increments the step, updates, and decrements the step if `found_inf` made the
// kernel skip it.
neva_status neva_fused_adamw(at::Tensor* const* params, at::Tensor* const* grads, at::Tensor* const* averages,
                             at::Tensor* const* square_averages, at::Tensor* const* steps, size_t count,
                             const neva_adamw* o, at::Tensor* grad_scale, at::Tensor* found_inf) {
  return without_grad([&] {
    const auto step = neva::list(steps, count);
    at::_foreach_add_(step, 1);
    at::_fused_adamw_(neva::list(params, count), neva::list(grads, count), neva::list(averages, count),
                      neva::list(square_averages, count), /*max_exp_avg_sqs=*/{}, step, o->lr, o->beta1,
                      o->beta2, o->weight_decay, o->eps, /*amsgrad=*/false, o->maximize, optional(grad_scale),
                      optional(found_inf));
    if (found_inf) at::_foreach_sub_(step, std::vector<at::Tensor>(count, *found_inf));
  });
}

// `results` (null at first) receives `count` owned scalars. `dtype` < 0 means the dtype of the tensors.
neva_status neva_foreach_norm(at::Tensor* const* tensors, size_t count, double order, int32_t dtype,
                              at::Tensor** results) {
  return without_grad([&] {
    const auto kind = dtype < 0 ? std::nullopt : std::make_optional(static_cast<at::ScalarType>(dtype));
    auto norms = at::_foreach_norm(neva::list(tensors, count), order, kind);
    for (size_t i = 0; i < count; ++i) results[i] = new at::Tensor(std::move(norms[i]));
  });
}

neva_status neva_foreach_mul_scalar(at::Tensor* const* tensors, size_t count, double factor) {
  return without_grad([&] { at::_foreach_mul_(neva::list(tensors, count), at::Scalar(factor)); });
}

neva_status neva_foreach_mul_tensor(at::Tensor* const* tensors, size_t count, at::Tensor* factor) {
  return without_grad([&] { at::_foreach_mul_(neva::list(tensors, count), *factor); });
}

neva_status neva_foreach_add(at::Tensor* const* tensors, at::Tensor* const* others, size_t count, double alpha) {
  return without_grad([&] { at::_foreach_add_(neva::list(tensors, count), neva::list(others, count), alpha); });
}

neva_status neva_foreach_copy(at::Tensor* const* tensors, at::Tensor* const* others, size_t count) {
  return without_grad([&] { at::_foreach_copy_(neva::list(tensors, count), neva::list(others, count)); });
}

neva_status neva_foreach_zero(at::Tensor* const* tensors, size_t count) {
  return without_grad([&] { at::_foreach_zero_(neva::list(tensors, count)); });
}

}  // extern "C"

// Entry points of the autograd engine: accumulate gradients into leaves, return gradients, or move a gradient out of a
// leaf, which may share its memory.
#include "status.h"

#include <ATen/ops/ones_like.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

namespace autograd = torch::autograd;

namespace {

autograd::variable_list execute(at::Tensor* const* outputs, at::Tensor* const* gradients, size_t count,
                                bool keep_graph, const autograd::edge_list* inputs) {
  autograd::edge_list roots;
  autograd::variable_list seeds;
  for (size_t i = 0; i < count; ++i) {
    roots.push_back(autograd::impl::gradient_edge(*outputs[i]));
    seeds.push_back(gradients[i] ? *gradients[i] : at::ones_like(*outputs[i]));
  }
  return autograd::Engine::get_default_engine().execute(
      roots, seeds, keep_graph, /*create_graph=*/false, /*accumulate_grad=*/inputs == nullptr,
      inputs ? *inputs : autograd::edge_list());
}

}  // namespace

extern "C" {

neva_status neva_backward(at::Tensor* const* outputs, at::Tensor* const* gradients, size_t count,
                          bool keep_graph) {
  return neva::guard([&] { execute(outputs, gradients, count, keep_graph, nullptr); });
}

// `results` (null at first) receives one owned tensor for each input that has a gradient.
neva_status neva_grad(at::Tensor* const* outputs, at::Tensor* const* gradients, size_t count,
                      at::Tensor* const* inputs, at::Tensor** results, size_t input_count, bool keep_graph) {
  return neva::guard([&] {
    autograd::edge_list edges;
    for (size_t i = 0; i < input_count; ++i) edges.push_back(autograd::impl::gradient_edge(*inputs[i]));
    auto found = execute(outputs, gradients, count, keep_graph, &edges);
    for (size_t i = 0; i < input_count; ++i) {
      if (found[i].defined()) results[i] = new at::Tensor(std::move(found[i]));
    }
  });
}

// Moves the gradient out of `leaf` into `*grad`, which stays null if there is no gradient.
neva_status neva_take_grad(at::Tensor* leaf, at::Tensor** grad) {
  return neva::guard([&] {
    at::Tensor& held = leaf->mutable_grad();
    if (!held.defined()) return;
    *grad = new at::Tensor(held);
    held.reset();
  });
}

// `*owns` becomes true if no other tensor has the memory of `tensor`, which fills it.
neva_status neva_owns_memory(const at::Tensor* tensor, bool* owns) {
  return neva::guard([&] {
    const auto& storage = tensor->storage();
    *owns = storage.use_count() == 1 && storage.nbytes() == tensor->nbytes();
  });
}

}  // extern "C"

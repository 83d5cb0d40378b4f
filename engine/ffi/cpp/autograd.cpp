// An autograd node whose backward is a Rust callback.
#include "status.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>

namespace autograd = torch::autograd;

extern "C" {
// `gradients` are borrowed. `results` are null at first; the node takes ownership of what the callback stores there.
struct neva_node_callbacks {
  neva_status (*backward)(void* context, at::Tensor* const* gradients, size_t gradient_count,
                          at::Tensor** results, size_t result_count);
  void (*release)(void* context);
  void (*drop)(void* context);
};
}

namespace {

class RustNode final : public autograd::Node {
 public:
  RustNode(void* context, neva_node_callbacks callbacks, std::string name)
      : context_(context), callbacks_(callbacks), name_(std::move(name)) {}
  ~RustNode() override { callbacks_.drop(context_); }

  std::string name() const override { return name_; }
  void release_variables() override { callbacks_.release(context_); }

  autograd::variable_list apply(autograd::variable_list&& gradients) override {
    std::vector<at::Tensor*> given;
    given.reserve(gradients.size());
    for (auto& gradient : gradients) given.push_back(gradient.defined() ? &gradient : nullptr);
    std::vector<at::Tensor*> raw(num_outputs(), nullptr);

    const auto status = callbacks_.backward(context_, given.data(), given.size(), raw.data(), raw.size());

    autograd::variable_list results;
    results.reserve(raw.size());
    for (auto* result : raw) {
      std::unique_ptr<at::Tensor> owned(result);
      results.push_back(owned ? std::move(*owned) : at::Tensor());
    }
    neva::check(status);
    return results;
  }

 private:
  void* context_;
  neva_node_callbacks callbacks_;
  std::string name_;
};

}  // namespace

extern "C" {

bool neva_grad_enabled() { return autograd::GradMode::is_enabled(); }

// Records a node with `inputs` and `outputs`. Always takes ownership of `context`, and drops it immediately if no
// graph is being recorded.
neva_status neva_node_record(void* context, neva_node_callbacks callbacks, const char* name,
                             at::Tensor* const* inputs, size_t input_count, at::Tensor* const* outputs,
                             size_t output_count) {
  return neva::guard([&] {
    std::shared_ptr<RustNode> node(new RustNode(context, callbacks, name), autograd::deleteNode);
    const auto variables = neva::list(inputs, input_count);
    const bool record = autograd::GradMode::is_enabled() && autograd::any_variable_requires_grad(variables);
    if (record) node->set_next_edges(autograd::collect_next_edges(variables));
    for (size_t i = 0; i < output_count; ++i) {
      // A new tensor over the same memory. Otherwise an output that *is* an input would get a second history (its
      // gradient would count twice), and an output that the function saved would own the node that owns it.
      at::Tensor fresh(outputs[i]->variable_data());
      if (record && autograd::isDifferentiableType(fresh.scalar_type())) {
        autograd::set_history(fresh, node);
      } else if (record) {
        // Keeps the indices of gradients and outputs equal.
        node->add_input_metadata(autograd::Node::undefined_input());
      }
      *outputs[i] = std::move(fresh);
    }
  });
}

}  // extern "C"

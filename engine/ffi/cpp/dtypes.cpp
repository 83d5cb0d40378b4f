// Views of tensors in data types that tch does not name.
#include "status.h"

extern "C" {

neva_status neva_view_e8m0(const at::Tensor* bytes, at::Tensor** out) {
  return neva::guard([&] { *out = new at::Tensor(bytes->view(at::kFloat8_e8m0fnu)); });
}

}  // extern "C"

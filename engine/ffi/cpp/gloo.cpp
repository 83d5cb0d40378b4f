// c10d's Gloo process group. Rust checks devices, dtypes and sizes before it calls.
#include "store.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <ATen/ops/empty.h>

#include <limits>
#include <mutex>

using std::chrono::milliseconds;

struct neva_group {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group;
};

struct neva_work {
  c10::intrusive_ptr<c10d::Work> work;
};

enum neva_bind : int32_t { NEVA_BIND_DEFAULT = 0, NEVA_BIND_INTERFACE = 1, NEVA_BIND_HOSTNAME = 2 };

namespace {

using Tensors = std::vector<at::Tensor>;

c10d::ReduceOp reduce_op(int32_t op) {
  switch (op) {
    case 0: return c10d::ReduceOp::SUM;
    case 1: return c10d::ReduceOp::MIN;
    case 2: return c10d::ReduceOp::MAX;
    default: TORCH_CHECK(false, "no reduction has number ", op);
  }
}

// Starts one collective and hands its work object out. All groups of the process take turns: c10d's
// flight recorder, which every call enters, keeps a map of groups that it does not lock. (And the
// numbers that pair a group's collectives across ranks are dealt in the order of the calls.)
template <class Start>
neva_status start(neva_work** out, Start&& body) {
  static std::mutex turn;
  return neva::guard([&] {
    std::lock_guard<std::mutex> lock(turn);
    *out = new neva_work{body()};
  });
}

}  // namespace

extern "C" {

neva_status neva_gloo_new(neva_store* store, const char* name, int rank, int size, int64_t timeout_ms,
                          int32_t bind, const char* address, neva_group** out) {
  return neva::guard([&] {
    using Gloo = c10d::ProcessGroupGloo;
    auto options = Gloo::Options::create(milliseconds(timeout_ms));
    switch (bind) {
      case NEVA_BIND_INTERFACE: options->devices.push_back(Gloo::createDeviceForInterface(address)); break;
      case NEVA_BIND_HOSTNAME: options->devices.push_back(Gloo::createDeviceForHostname(address)); break;
      default: options->devices.push_back(Gloo::createDefaultDevice());
    }
    auto keys = c10::make_intrusive<c10d::PrefixStore>(name, store->store);
    *out = new neva_group{c10::make_intrusive<Gloo>(keys, rank, size, options)};
  });
}

neva_status neva_gloo_free(neva_group* group) {
  return neva::guard([&] { delete group; });
}

// Closes the connections of the group: what is under way fails now, here and at the peers. Gloo has no such
// call, but does this when a receive runs into its deadline; so let one (of a tag that Rust reserves) do so.
neva_status neva_gloo_abort(neva_group* group, int peer) {
  neva_work* work = nullptr;
  const auto started = start(&work, [&] {
    Tensors tensors{at::empty({1}, at::kByte)};
    return group->group->recv(tensors, peer, std::numeric_limits<int>::max());
  });
  const auto waited = neva::guard([&] {
    std::unique_ptr<neva_work> owned(work);
    if (owned) owned->work->wait(milliseconds(1));
  });
  // Either failed as it should: by its deadline, or because the connections were closed before.
  std::free(started.message);
  std::free(waited.message);
  return {NEVA_OK, nullptr};
}

neva_status neva_gloo_all_reduce(neva_group* group, at::Tensor* tensor, int32_t op, neva_work** out) {
  return start(out, [&] {
    c10d::AllreduceOptions options;
    options.reduceOp = reduce_op(op);
    Tensors tensors{*tensor};
    return group->group->allreduce(tensors, options);
  });
}

neva_status neva_gloo_all_gather(neva_group* group, at::Tensor* output, at::Tensor* input, neva_work** out) {
  return start(out, [&] { return group->group->_allgather_base(*output, *input); });
}

neva_status neva_gloo_broadcast(neva_group* group, at::Tensor* tensor, int root, neva_work** out) {
  return start(out, [&] {
    c10d::BroadcastOptions options;
    options.rootRank = root;
    Tensors tensors{*tensor};
    return group->group->broadcast(tensors, options);
  });
}

neva_status neva_gloo_all_to_all(neva_group* group, at::Tensor* output, at::Tensor* input,
                                 const int64_t* output_rows, const int64_t* input_rows, size_t count,
                                 neva_work** out) {
  return start(out, [&] {
    std::vector<int64_t> received(output_rows, output_rows + count);
    std::vector<int64_t> sent(input_rows, input_rows + count);
    return group->group->alltoall_base(*output, *input, received, sent);
  });
}

neva_status neva_gloo_send(neva_group* group, at::Tensor* tensor, int peer, int tag, neva_work** out) {
  return start(out, [&] {
    Tensors tensors{*tensor};
    return group->group->send(tensors, peer, tag);
  });
}

neva_status neva_gloo_recv(neva_group* group, at::Tensor* tensor, int peer, int tag, neva_work** out) {
  return start(out, [&] {
    Tensors tensors{*tensor};
    return group->group->recv(tensors, peer, tag);
  });
}

neva_status neva_gloo_barrier(neva_group* group, neva_work** out) {
  return start(out, [&] { return group->group->barrier(); });
}

neva_status neva_work_wait(neva_work* work, int64_t timeout_ms) {
  return neva::guard([&] { work->work->wait(milliseconds(timeout_ms)); });
}

neva_status neva_work_is_completed(neva_work* work, bool* completed) {
  return neva::guard([&] { *completed = work->work->isCompleted(); });
}

neva_status neva_work_free(neva_work* work) {
  return neva::guard([&] { delete work; });
}

}  // extern "C"

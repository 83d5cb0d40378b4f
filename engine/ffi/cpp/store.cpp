// c10d's key-value stores, which ranks use for rendezvous.
#include "store.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

using std::chrono::milliseconds;

namespace {

std::vector<std::string> strings(const char* const* keys, size_t count) { return {keys, keys + count}; }

}  // namespace

extern "C" {

// Does not wait for the other workers: `neva_store_join` does.
neva_status neva_store_tcp(const char* host, uint16_t port, bool server, size_t world_size, int64_t timeout_ms,
                           neva_store** out, uint16_t* bound) {
  return neva::guard([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = server;
    options.numWorkers = world_size;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    *bound = store->getPort();
    *out = new neva_store{std::move(store)};
  });
}

neva_status neva_store_join(neva_store* store) {
  return neva::guard([&] {
    auto* tcp = dynamic_cast<c10d::TCPStore*>(store->store.get());
    TORCH_CHECK(tcp, "only a TCP store can be joined");
    tcp->waitForWorkers();
  });
}

neva_status neva_store_prefixed(neva_store* store, const char* prefix, neva_store** out) {
  return neva::guard([&] { *out = new neva_store{c10::make_intrusive<c10d::PrefixStore>(prefix, store->store)}; });
}

neva_status neva_store_clone(neva_store* store, neva_store** out) {
  return neva::guard([&] { *out = new neva_store{store->store->clone()}; });
}

neva_status neva_store_free(neva_store* store) {
  return neva::guard([&] { delete store; });
}

neva_status neva_store_set(neva_store* store, const char* key, const uint8_t* value, size_t length) {
  return neva::guard([&] { store->store->set(key, std::vector<uint8_t>(value, value + length)); });
}

// `*value` is allocated with malloc.
neva_status neva_store_get(neva_store* store, const char* key, int64_t timeout_ms, uint8_t** value,
                           size_t* length) {
  return neva::guard([&] {
    // Passes the timeout to `wait`, because the timeout of `get` is a field that all threads share.
    store->store->wait({key}, milliseconds(timeout_ms));
    const auto bytes = store->store->get(key);
    *value = static_cast<uint8_t*>(std::malloc(bytes.size() + 1));
    TORCH_CHECK(*value, "out of memory");
    std::copy(bytes.begin(), bytes.end(), *value);
    *length = bytes.size();
  });
}

neva_status neva_store_add(neva_store* store, const char* key, int64_t delta, int64_t* value) {
  return neva::guard([&] { *value = store->store->add(key, delta); });
}

neva_status neva_store_wait(neva_store* store, const char* const* keys, size_t count, int64_t timeout_ms) {
  return neva::guard([&] { store->store->wait(strings(keys, count), milliseconds(timeout_ms)); });
}

neva_status neva_store_check(neva_store* store, const char* const* keys, size_t count, bool* present) {
  return neva::guard([&] { *present = store->store->check(strings(keys, count)); });
}

neva_status neva_store_delete(neva_store* store, const char* key, bool* deleted) {
  return neva::guard([&] { *deleted = store->store->deleteKey(key); });
}

}  // extern "C"

// CUDA streams and events, through c10's VirtualGuardImpl: it compiles without CUDA, and dispatches to CUDA's
// implementation if libtorch_cuda.so is loaded.
#include "status.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>

struct neva_event {
  c10::Event event;
};

struct neva_stream {
  int64_t id;
  int64_t device;
  int64_t type;
};

namespace {

constexpr auto GPU = c10::DeviceType::CUDA;

c10::impl::VirtualGuardImpl guard_impl() {
  TORCH_CHECK(c10::impl::hasDeviceGuardImpl(GPU), "libtorch_cuda.so is not loaded; point LIBTORCH at a CUDA libtorch 2.11.0");
  return c10::impl::VirtualGuardImpl(GPU);
}

c10::Device gpu(int32_t index) { return {GPU, static_cast<c10::DeviceIndex>(index)}; }

neva_stream packed(const c10::Stream& stream) {
  const auto parts = stream.pack3();
  return {parts.stream_id, parts.device_index, static_cast<int64_t>(parts.device_type)};
}

c10::Stream unpacked(neva_stream stream) {
  return c10::Stream::unpack3(stream.id, static_cast<c10::DeviceIndex>(stream.device),
                              static_cast<c10::DeviceType>(stream.type));
}

}  // namespace

extern "C" {

// Sets the device of the calling thread.
neva_status neva_set_cuda_device(int32_t index) {
  return neva::guard([&] { guard_impl().setDevice(gpu(index)); });
}

// Returns the stream of the calling thread.
neva_status neva_stream_current(int32_t index, neva_stream* out) {
  return neva::guard([&] { *out = packed(guard_impl().getStream(gpu(index))); });
}

neva_status neva_stream_from_pool(int32_t index, neva_stream* out) {
  return neva::guard([&] { *out = packed(guard_impl().getStreamFromGlobalPool(gpu(index), /*isHighPriority=*/true)); });
}

neva_status neva_stream_handle(neva_stream stream, void** out) {
  return neva::guard([&] { *out = guard_impl().getStreamNativeHandle(unpacked(stream)); });
}

neva_status neva_stream_record_tensor(neva_stream stream, at::Tensor* tensor) {
  return neva::guard([&] { guard_impl().recordDataPtrOnStream(tensor->storage().data_ptr(), unpacked(stream)); });
}

neva_status neva_event_record(neva_stream stream, neva_event** out) {
  return neva::guard([&] {
    guard_impl();
    auto event = std::make_unique<neva_event>(neva_event{c10::Event(GPU)});
    event->event.record(unpacked(stream));
    *out = event.release();
  });
}

neva_status neva_event_block(neva_event* event, neva_stream stream) {
  return neva::guard([&] { event->event.block(unpacked(stream)); });
}

neva_status neva_event_query(neva_event* event, bool* done) {
  return neva::guard([&] { *done = event->event.query(); });
}

neva_status neva_event_free(neva_event* event) {
  return neva::guard([&] { delete event; });
}

}  // extern "C"

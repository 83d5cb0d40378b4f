// Gloo's own headers are not part of libtorch. ProcessGroupGloo.hpp uses only the names of these four classes, so
// opaque declarations are enough to create a group and to call it.
//
// These are declarations only. Nothing in this folder may construct, subclass or call them, because the real classes
// (compiled into libtorch_cpu.so) have more members. In particular, never create a `GlooStore`, which
// ProcessGroupGloo.hpp derives from `Store`: the constructor of ProcessGroupGloo creates it inside libtorch from a plain
// c10d::Store.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

namespace transport {
class Device;
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = 0;
};
}  // namespace transport

namespace rendezvous {
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::vector<char>& value) = 0;
  virtual std::vector<char> get(const std::string& key) = 0;
  virtual void wait(const std::vector<std::string>& keys) = 0;
  virtual void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) = 0;
};
}  // namespace rendezvous

}  // namespace gloo

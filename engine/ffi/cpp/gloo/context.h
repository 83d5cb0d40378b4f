// Gloo's own headers are not part of libtorch. ProcessGroupGloo.hpp names these four classes and
// never looks inside them, so declaring them opaquely is enough to create a group and to call it.
//
// These are declarations only: nothing in this folder may construct, subclass or call into them,
// because the real classes (compiled into libtorch_cpu.so) have more members. `GlooStore`, which
// ProcessGroupGloo.hpp derives from `Store` in its header, must therefore never be created here:
// the constructor of ProcessGroupGloo does so, inside libtorch, from a plain c10d::Store.
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

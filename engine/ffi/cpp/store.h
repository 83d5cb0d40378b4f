// Handle of a store; gloo.cpp uses it, too.
#pragma once

#include "status.h"

#include <torch/csrc/distributed/c10d/Store.hpp>

struct neva_store {
  c10::intrusive_ptr<c10d::Store> store;
};

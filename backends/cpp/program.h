// A loaded library: its functions take and return tensors.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "manifest.h"

namespace graphprune {

// A tensor over memory that stays with its owner.
tvm::ffi::Tensor View(const void* data, const std::vector<int64_t>& shape, const std::string& dtype);

class Program {
 public:
  // `weights` is the content of weights.bin, which must stay; it may be empty.
  Program(const Bytes& library, const Manifest& manifest, const Bytes& weights, int threads);

  // Run a function. Calls may come from several threads: each gets a virtual machine for itself.
  std::vector<tvm::ffi::Tensor> Run(const std::string& function, const std::vector<tvm::ffi::Tensor>& inputs);

 private:
  tvm::ffi::Module Take();

  tvm::ffi::Module executable_;
  std::map<std::string, std::vector<tvm::ffi::Tensor>> weights_;
  int threads_;
  std::mutex mutex_;
  std::vector<tvm::ffi::Module> free_;
};

}  // namespace graphprune

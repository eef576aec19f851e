// What an artifact says of itself, checked.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "container.h"

namespace graphprune {

struct Tensor {
  std::string name, dtype;
  std::vector<int64_t> shape;
  bool batched = false;
  size_t bytes = 0;  // of one sample if batched
};

struct Weight {
  size_t offset = 0;
  std::string dtype;
  std::vector<int64_t> shape;
};

struct Manifest {
  std::string target, architecture, device;
  std::vector<std::string> features;
  std::vector<Tensor> inputs, outputs;
  std::vector<int64_t> batch_sizes;
  std::vector<Weight> weights;
  std::map<std::string, std::vector<int64_t>> functions;  // which weights each function takes after its inputs
};

// Reads the manifest and checks, in this order: format and version, the manifest's own checksum, that the members are
// exactly those that it lists, their sizes and checksums, and that nothing that is needed is missing. Throws Error.
Manifest ReadManifest(const Container& container, const std::string& path);

}  // namespace graphprune

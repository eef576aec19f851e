// Calls with any number of samples, for artifacts that were compiled for several batch sizes.
#pragma once

#include <cstdint>
#include <vector>

namespace graphprune {

// Compiled sizes, largest first, that together hold `count` samples at the least cost; the same as batches.py chooses.
std::vector<int64_t> Cover(int64_t count, const std::vector<int64_t>& sizes);

}  // namespace graphprune

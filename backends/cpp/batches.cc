#include "batches.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace graphprune {

std::vector<int64_t> Cover(int64_t count, const std::vector<int64_t>& sizes) {
  // What one more call costs, in samples: pieces of equal work are better taken at once.
  constexpr double kCall = 0.25;
  using Way = std::pair<double, std::vector<int64_t>>;
  const int64_t largest = *std::max_element(sizes.begin(), sizes.end());
  const int64_t whole = std::max<int64_t>(count / largest - 1, 0);
  std::vector<Way> best = {{0.0, {}}};
  for (int64_t rest = 1; rest <= count - whole * largest; ++rest) {
    std::vector<Way> ways;
    for (int64_t size : sizes) {
      Way way = best[std::max<int64_t>(rest - size, 0)];
      way.first += size + kCall;
      way.second.push_back(size);
      ways.push_back(std::move(way));
    }
    best.push_back(*std::min_element(ways.begin(), ways.end()));
  }
  std::vector<int64_t> pieces = best.back().second;
  pieces.insert(pieces.end(), whole, largest);
  std::sort(pieces.begin(), pieces.end(), std::greater<>());
  return pieces;
}

}  // namespace graphprune

// CUDA's warp matrix functions for the emulation: the first lane of a warp keeps the whole tile and does all the work.
#pragma once
#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
namespace precision {
struct tf32 {};
}  // namespace precision

template <typename T>
struct Stored { typedef T type; };
template <>
struct Stored<precision::tf32> { typedef float type; };

// Rows and columns of an operand, by its role in (m x k) * (k x n).
template <typename Use, int m, int n, int k> struct Extents { static constexpr int rows = m, columns = n; };
template <int m, int n, int k> struct Extents<matrix_a, m, n, k> { static constexpr int rows = m, columns = k; };
template <int m, int n, int k> struct Extents<matrix_b, m, n, k> { static constexpr int rows = k, columns = n; };

template <typename Use, int m, int n, int k, typename T, typename Layout = void>
struct fragment {
  typedef typename Stored<T>::type Element;
  static constexpr int rows = Extents<Use, m, n, k>::rows, columns = Extents<Use, m, n, k>::columns;
  static constexpr int num_elements = rows * columns;  // all of them are the first lane's
  Element x[rows * columns];
};

inline float __float_to_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;  // ten bits of fraction remain
  std::memcpy(&value, &bits, 4);
  return value;
}

// All lanes of a warp must arrive; a block of 32, 64, ... threads has whole warps.
inline bool first_lane() {
  if (emulation::machine.threads.size() % emulation::kWarp) emulation::fail("a matrix function needs whole warps");
  return emulation::lane() == 0;
}

template <typename Fragment, typename Value>
void fill_fragment(Fragment& tile, Value value) {
  if (!first_lane()) return;
  for (auto& element : tile.x) element = typename Fragment::Element(value);
}

template <typename Fragment, typename T>
void move(Fragment& tile, T* memory, unsigned stride, bool columns_first, bool load) {
  if (!first_lane()) return;
  if (stride * sizeof(T) % 16 || reinterpret_cast<uintptr_t>(memory) % 32)
    emulation::fail("a matrix in memory starts at a multiple of 32 bytes, its rows at multiples of 16");
  for (int row = 0; row < Fragment::rows; ++row)
    for (int column = 0; column < Fragment::columns; ++column) {
      T& place = memory[columns_first ? column * stride + row : row * stride + column];
      auto& element = tile.x[row * Fragment::columns + column];
      if (load) element = place; else place = element;
    }
}

template <typename Use, int m, int n, int k, typename T, typename Layout, typename M>
void load_matrix_sync(fragment<Use, m, n, k, T, Layout>& tile, const M* memory, unsigned stride) {
  move(tile, const_cast<M*>(memory), stride, std::is_same<Layout, col_major>::value, true);
}

template <int m, int n, int k, typename T, typename M>
void store_matrix_sync(M* memory, fragment<accumulator, m, n, k, T>& tile, unsigned stride, layout_t layout) {
  move(tile, memory, stride, layout == mem_col_major, false);
}

template <int m, int n, int k, typename A, typename B, typename C, typename LayoutA, typename LayoutB>
void mma_sync(fragment<accumulator, m, n, k, C>& result, const fragment<matrix_a, m, n, k, A, LayoutA>& a,
              const fragment<matrix_b, m, n, k, B, LayoutB>& b, const fragment<accumulator, m, n, k, C>& sum) {
  if (!first_lane()) return;
  for (int row = 0; row < m; ++row)
    for (int column = 0; column < n; ++column) {
      float total = float(sum.x[row * n + column]);
      for (int inner = 0; inner < k; ++inner)
        total += float(a.x[row * k + inner]) * float(b.x[inner * n + column]);
      result.x[row * n + column] = C(total);
    }
}

}  // namespace wmma
}  // namespace nvcuda

// The part of CUDA's half type that compiled kernels use, for the emulation.
#pragma once
#include "emulation.h"

typedef Narrow<Binary16> half;
typedef half __half;
struct alignas(4) half2 {
  half x, y;
  half2() = default;
  half2(half x, half y) : x(x), y(y) {}
};
typedef half2 __half2;

inline float __half2float(half x) { return x; }
inline half __float2half(float x) { return half(x); }
inline half __float2half_rn(float x) { return half(x); }
inline half2 make_half2(half x, half y) { return {x, y}; }
inline bool __hgt(half a, half b) { return float(a) > float(b); }
inline bool __hlt(half a, half b) { return float(a) < float(b); }

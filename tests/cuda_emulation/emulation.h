// Runs CUDA C on the CPU, thread by thread, for tests: every CUDA thread of a block is a fiber, and barriers switch.
//
// Blocks run one after the other; the threads of a block run in ascending or descending order from barrier to barrier.
// Code whose result depends on that order lacks a barrier: tests run both. What CUDA leaves undefined is an error here: a
// barrier that some threads never reach, or is poisoned: a shuffle that reads a lane which takes no part in it.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static
#define __grid_constant__
#define CUDART_INF_F std::numeric_limits<float>::infinity()
#define CUDART_NAN_F std::numeric_limits<float>::quiet_NaN()
#define CUDART_INF std::numeric_limits<double>::infinity()
#define CUDART_NAN std::numeric_limits<double>::quiet_NaN()

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long long ulonglong_;

#define VECTORS(T, name)                                                                      \
  struct name##1 { T x; };                                                                    \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                          \
  struct name##3 { T x, y, z; };                                                              \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };          \
  inline name##1 make_##name##1(T x) { return {x}; }                                          \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                  \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                          \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTORS(float, float)
VECTORS(double, double)
VECTORS(int, int)
VECTORS(unsigned int, uint)
VECTORS(short, short)
VECTORS(unsigned short, ushort)
VECTORS(signed char, char)
VECTORS(unsigned char, uchar)
VECTORS(long long, longlong)
VECTORS(unsigned long long, ulonglong)
#undef VECTORS

namespace emulation {

constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;
enum State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Thread {
  ucontext_t context;
  uint3 index;
  State state;
  int shuffles;  // so far: neighbours in time use different slots
};

struct Machine {
  std::vector<Thread> threads;
  std::vector<char> stacks;
  std::vector<uint64_t> slots[2];
  std::function<void()> kernel;
  ucontext_t scheduler;
  uint3 grid, block, where;
  size_t current;
  bool descending = false;
};
inline Machine machine;

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "CUDA emulation: %s\n", message);
  std::abort();
}

inline Thread& self() { return machine.threads[machine.current]; }

inline void wait(State state) {
  self().state = state;
  swapcontext(&self().context, &machine.scheduler);
}

inline void body() {
  machine.kernel();
  self().state = kDone;
  swapcontext(&self().context, &machine.scheduler);
}

inline bool release_warps() {
  auto& threads = machine.threads;
  bool released = false;
  for (size_t first = 0; first < threads.size(); first += kWarp) {
    const size_t end = std::min(first + kWarp, threads.size());
    bool shuffling = false;
    int parity = 0;
    for (size_t t = first; t < end; ++t)
      if (threads[t].state == kAtShuffle) shuffling = true, parity = threads[t].shuffles % 2;
    if (!shuffling) continue;
    for (size_t t = first; t < end; ++t) {
      if (threads[t].state == kAtShuffle) {
        threads[t].state = kReady;
        released = true;
      } else {
        machine.slots[parity][t] = 0x7fc000007fc07fc0ull;  // not a number, in every width
      }
    }
  }
  return released;
}

inline void run_block() {
  auto& threads = machine.threads;
  const size_t count = threads.size();
  for (size_t t = 0; t < count; ++t) {
    Thread& thread = threads[t];
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = machine.stacks.data() + t * kStack;
    thread.context.uc_stack.ss_size = kStack;
    thread.context.uc_link = nullptr;
    const unsigned x = machine.block.x, y = machine.block.y;
    thread.index = {unsigned(t) % x, unsigned(t) / x % y, unsigned(t) / (x * y)};
    thread.state = kReady;
    thread.shuffles = 0;
    makecontext(&thread.context, body, 0);
  }
  for (;;) {
    for (size_t step = 0; step < count; ++step) {
      machine.current = machine.descending ? count - 1 - step : step;
      if (self().state == kReady) swapcontext(&machine.scheduler, &self().context);
    }
    if (release_warps()) continue;
    size_t waiting = 0, done = 0;
    for (Thread& thread : threads) waiting += thread.state == kAtBarrier, done += thread.state == kDone;
    if (done == count) return;
    if (waiting != count) fail("some threads of a block wait at a barrier that others never reach");
    for (Thread& thread : threads) thread.state = kReady;
  }
}

inline void launch(const std::function<void()>& kernel, uint3 grid, uint3 block) {
  const char* order = std::getenv("CUDA_EMULATION_DESCENDING");
  machine.descending = order != nullptr && *order == '1';
  const size_t count = size_t(block.x) * block.y * block.z;
  if (count == 0 || count > 1024 || block.z > 64) fail("a block has too many threads");
  machine.kernel = kernel;
  machine.grid = grid;
  machine.block = block;
  machine.threads.resize(count);
  if (machine.stacks.size() < count * kStack) machine.stacks.resize(count * kStack);
  for (auto& slots : machine.slots) slots.assign(count, 0);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        machine.where = {x, y, z};
        run_block();
      }
}

template <typename T>
T exchange(T value, int source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
  const size_t own = machine.current, first = own / kWarp * kWarp;
  const int parity = self().shuffles % 2;
  std::memcpy(&machine.slots[parity][own], &value, sizeof(T));
  wait(kAtShuffle);
  ++self().shuffles;
  if (source < 0 || source >= kWarp || first + source >= machine.threads.size()) return value;
  std::memcpy(&value, &machine.slots[parity][first + source], sizeof(T));
  return value;
}

inline int lane() { return int(machine.current % kWarp); }

}  // namespace emulation

#define threadIdx (emulation::self().index)
#define blockIdx (emulation::machine.where)
#define blockDim (emulation::machine.block)
#define gridDim (emulation::machine.grid)

inline void __syncthreads() { emulation::wait(emulation::kAtBarrier); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulation::exchange(0, emulation::lane()); }
inline unsigned __activemask() { return 0xffffffffu; }

template <typename T>
T __shfl_sync(unsigned, T value, int source, int width = 32) {
  const int base = emulation::lane() / width * width;
  return emulation::exchange(value, base + source % width);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned delta, int width = 32) {
  const int source = emulation::lane() + int(delta), end = emulation::lane() / width * width + width;
  return emulation::exchange(value, source < end ? source : emulation::lane());
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned delta, int width = 32) {
  const int source = emulation::lane() - int(delta), begin = emulation::lane() / width * width;
  return emulation::exchange(value, source >= begin ? source : emulation::lane());
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int width = 32) {
  const int source = emulation::lane() ^ mask, end = emulation::lane() / width * width + width;
  return emulation::exchange(value, source < end ? source : emulation::lane());
}

template <typename T>
T __ldg(const T* place) { return *place; }
template <typename T>
T atomicAdd(T* place, T value) { T old = *place; *place = old + value; return old; }

#define BOTH(T)                                        \
  inline T max(T a, T b) { return a > b ? a : b; }     \
  inline T min(T a, T b) { return a < b ? a : b; }
BOTH(int)
BOTH(unsigned int)
BOTH(long)
BOTH(unsigned long)
BOTH(long long)
BOTH(unsigned long long)
#undef BOTH
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }

// A number of 16 bits: every operation computes in float32 and rounds once, as the hardware does.
template <typename Format>
struct Narrow {
  uint16_t bits;
  Narrow() = default;
  template <typename T, typename = std::enable_if_t<std::is_arithmetic<T>::value>>
  Narrow(T value) : bits(Format::narrow(float(value))) {}
  operator float() const { return Format::widen(bits); }
  Narrow& operator+=(Narrow other) { return *this = Narrow(float(*this) + float(other)); }
  Narrow operator-() const { return Narrow(-float(*this)); }
};
#define ARITHMETIC(op)                                                                       \
  template <typename F>                                                                      \
  Narrow<F> operator op(Narrow<F> a, Narrow<F> b) { return Narrow<F>(float(a) op float(b)); }
ARITHMETIC(+)
ARITHMETIC(-)
ARITHMETIC(*)
ARITHMETIC(/)
#undef ARITHMETIC

struct Binary16 {
  static float widen(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * std::ldexp(float(fraction), -24);
    const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
  }
  static uint16_t narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t sign = bits >> 16 & 0x8000;
    if (std::isnan(value)) return sign | 0x7e00;
    const float size = std::fabs(value);
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size < 0.00006103515625f) return sign | uint16_t(std::nearbyint(std::ldexp(size, 24)));
    bits &= 0x7fffffff;
    bits += 0xfff + (bits >> 13 & 1);  // to the nearest, ties to even
    return sign | uint16_t((bits - (112u << 23)) >> 13);
  }
};
struct Brain16 {
  static float widen(uint16_t h) {
    const uint32_t bits = uint32_t(h) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
  }
  static uint16_t narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (std::isnan(value)) return 0x7fff;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
};

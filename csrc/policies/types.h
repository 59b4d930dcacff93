#pragma once

// Storage types of table rows, and the type in which their values are accumulated.
//
// These headers know neither torch nor an instruction set: the CPU kernels are compiled once per
// instruction set, and an inline function of a torch header in such a file could be the copy that
// the linker keeps for the whole program.

#include <cstdint>
#include <type_traits>

// Inlined without exception, see above.
#define MYEMB_HOST_INLINE [[gnu::always_inline]] inline

// And one definition for both devices.
#ifdef __CUDACC__
#define MYEMB_INLINE __host__ __device__ __forceinline__
#else
#define MYEMB_INLINE MYEMB_HOST_INLINE
#endif

namespace myemb {

// IEEE binary16 and bfloat16 as stored; arithmetic happens after conversion to float.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

enum class Dtype : int8_t { Float, Double, Half, BFloat16 };

// Calls f with a value of the C++ type that dtype names: visit(dtype, []<typename T>(T) { ... }).
template <typename F>
MYEMB_HOST_INLINE decltype(auto) visit(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::Double:
      return f(double{});
    case Dtype::Half:
      return f(Half{});
    case Dtype::BFloat16:
      return f(BFloat16{});
    default:
      return f(float{});
  }
}

// Bytes of an element.
MYEMB_HOST_INLINE int64_t size_of(Dtype dtype) {
  return visit(dtype, []<typename T>(T) { return int64_t{sizeof(T)}; });
}

}  // namespace myemb

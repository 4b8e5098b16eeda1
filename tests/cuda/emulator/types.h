// The number and vector types of the toolkit, with its rounding: bf16 and fp8 (e4m3) to nearest even.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

#define EMULATED_VECTORS(type, name, alignment2, alignment4)                                                \
    struct alignas(alignment2) name##2 { type x, y; };                                                      \
    struct alignas(alignment4) name##4 { type x, y, z, w; };                                                \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                        \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATED_VECTORS(float, float, 8, 16)
EMULATED_VECTORS(double, double, 16, 16)
EMULATED_VECTORS(int, int, 8, 16)
EMULATED_VECTORS(unsigned, uint, 8, 16)
EMULATED_VECTORS(long long, longlong, 16, 16)
EMULATED_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATED_VECTORS(short, short, 4, 8)
EMULATED_VECTORS(unsigned short, ushort, 4, 8)
EMULATED_VECTORS(signed char, char, 2, 4)
EMULATED_VECTORS(unsigned char, uchar, 2, 4)
#undef EMULATED_VECTORS

namespace emulated {

template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From) && std::is_trivially_copyable_v<From>);
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline unsigned short bf16_of(float value) {
    uint32_t bits = bits_as<uint32_t>(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return static_cast<unsigned short>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float float_of_bf16(unsigned short bits) { return bits_as<float>(static_cast<uint32_t>(bits) << 16); }

// 4 bits of exponent (bias 7), 3 of mantissa; no infinities; 0x7f is NaN; the largest number is 448.
inline float float_of_e4m3(unsigned char bits) {
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float size = (bits & 0x7f) == 0x7f ? NAN : exponent == 0 ? std::ldexp(float(mantissa), -9) : std::ldexp(float(8 + mantissa), exponent - 10);
    return bits & 0x80 ? -size : size;
}

// Saturating. The spacing of e4m3 at 2^e is 2^(e - 3), and 2^-9 below 2^-6.
inline unsigned char e4m3_of(float value) {
    unsigned char sign = std::signbit(value) ? 0x80 : 0;
    float size = std::fabs(value);
    if (std::isnan(value)) return 0x7f;
    if (size >= 448.0f) return sign | 0x7e;
    int exponent = size < 0.015625f ? -6 : std::ilogb(size);
    int steps = static_cast<int>(std::nearbyint(std::ldexp(size, 3 - exponent)));
    int code = exponent == -6 && steps < 8 ? steps : ((exponent + 7) << 3) + steps - 8;
    return sign | static_cast<unsigned char>(code);
}

}  // namespace emulated

struct __nv_bfloat16 {
    unsigned short __x;
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) : __x(emulated::bf16_of(value)) {}
    operator float() const { return emulated::float_of_bf16(__x); }
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) : x(low), y(high) {}
};
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float value) { return value; }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return value; }
inline float __bfloat162float(__nv_bfloat16 value) { return value; }
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return {low, high}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 pair) { return {pair.x, pair.y}; }
inline __nv_bfloat162 __float2bfloat162_rn(float both) { return {both, both}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 both) { return {both, both}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
inline float2 __bfloat1622float2(__nv_bfloat162 pair) { return {pair.x, pair.y}; }
inline float __low2float(__nv_bfloat162 pair) { return pair.x; }
inline float __high2float(__nv_bfloat162 pair) { return pair.y; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 pair) { return pair.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 pair) { return pair.y; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.__x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return emulated::bits_as<__nv_bfloat16>(bits); }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
inline __nv_bfloat16 __hadd(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) + float(b); }
inline __nv_bfloat16 __hsub(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) - float(b); }
inline __nv_bfloat16 __hmul(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) * float(b); }
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }

using __nv_fp8_storage_t = unsigned char;
using __nv_fp8x2_storage_t = unsigned short;
using __nv_fp8x4_storage_t = unsigned;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

struct __nv_fp8_e4m3 {
    __nv_fp8_storage_t __x;
    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float value) : __x(emulated::e4m3_of(value)) {}
    explicit operator float() const { return emulated::float_of_e4m3(__x); }
};
struct alignas(2) __nv_fp8x2_e4m3 {
    __nv_fp8x2_storage_t __x;
    __nv_fp8x2_e4m3() = default;
    explicit __nv_fp8x2_e4m3(float2 v) : __x(emulated::e4m3_of(v.x) | emulated::e4m3_of(v.y) << 8) {}
};
struct alignas(4) __nv_fp8x4_e4m3 {
    __nv_fp8x4_storage_t __x;
    __nv_fp8x4_e4m3() = default;
    explicit __nv_fp8x4_e4m3(float4 v)
        : __x(emulated::e4m3_of(v.x) | emulated::e4m3_of(v.y) << 8 | emulated::e4m3_of(v.z) << 16 | unsigned(emulated::e4m3_of(v.w)) << 24) {}
};

inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float value, __nv_saturation_t, __nv_fp8_interpretation_t) { return emulated::e4m3_of(value); }
inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 v, __nv_saturation_t, __nv_fp8_interpretation_t) { return __nv_fp8x2_e4m3(v).__x; }

// Kernels of candle that the program still launches (strided copies, fills, casts, sums), on the host, found by candle's names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "../emulator/types.h"

namespace candle {

using Kernel = std::function<void(void** arguments)>;

template <class T>
T& argument(void** arguments, int i) {
    return *static_cast<T*>(arguments[i]);
}

// Elements in row-major order of `dims`, at their strides; without `info` they lie one after the other.
inline size_t strided(size_t i, size_t num_dims, const size_t* dims, const size_t* strides) {
    size_t at = 0;
    for (size_t d = num_dims; d-- > 0;) {
        at += i % dims[d] * strides[d];
        i /= dims[d];
    }
    return at;
}

template <class To, class From>
To converted(From from) {
    if constexpr (std::is_same_v<To, From>) {
        return from;
    } else if constexpr (std::is_arithmetic_v<To> && std::is_arithmetic_v<From>) {
        return static_cast<To>(from);
    } else {
        return static_cast<To>(static_cast<float>(from));
    }
}

// (numel, num_dims, info, inp, out), as `ucopy_` and `cast_` have them.
template <class From, class To>
Kernel copy() {
    return [](void** a) {
        size_t count = argument<size_t>(a, 0), num_dims = argument<size_t>(a, 1);
        const size_t* info = argument<const size_t*>(a, 2);
        const From* from = argument<const From*>(a, 3);
        To* to = argument<To*>(a, 4);
        for (size_t i = 0; i < count; i++) to[i] = converted<To>(from[info ? strided(i, num_dims, info, info + num_dims) : i]);
    };
}

// (numel, num_dims, info, inp, out, mul, add)
template <class T>
Kernel affine() {
    return [](void** a) {
        size_t count = argument<size_t>(a, 0), num_dims = argument<size_t>(a, 1);
        const size_t* info = argument<const size_t*>(a, 2);
        const T* from = argument<const T*>(a, 3);
        T* to = argument<T*>(a, 4);
        T factor = argument<T>(a, 5), added = argument<T>(a, 6);
        for (size_t i = 0; i < count; i++) {
            T x = from[info ? strided(i, num_dims, info, info + num_dims) : i];
            if constexpr (std::is_arithmetic_v<T>) {
                to[i] = static_cast<T>(x * factor + added);
            } else {
                to[i] = T(float(T(float(x) * float(factor))) + float(added));
            }
        }
    };
}

// (buf, value, numel)
template <class T>
Kernel fill() {
    return [](void** a) { std::fill_n(argument<T*>(a, 0), argument<size_t>(a, 2), argument<T>(a, 1)); };
}

// (numel, num_dims, info, value, out)
template <class T>
Kernel set() {
    return [](void** a) {
        size_t count = argument<size_t>(a, 0), num_dims = argument<size_t>(a, 1);
        const size_t* info = argument<const size_t*>(a, 2);
        T* to = argument<T*>(a, 4);
        for (size_t i = 0; i < count; i++) to[info ? strided(i, num_dims, info, info + num_dims) : i] = argument<T>(a, 3);
    };
}

// (src, dst, rows, columns, source's stride, target's stride)
template <class T>
Kernel copy2d() {
    return [](void** a) {
        const T* from = argument<const T*>(a, 0);
        T* to = argument<T*>(a, 1);
        size_t rows = argument<uint32_t>(a, 2), columns = argument<uint32_t>(a, 3);
        for (size_t row = 0; row < rows; row++) memcpy(to + row * argument<uint32_t>(a, 5), from + row * argument<uint32_t>(a, 4), columns * sizeof(T));
    };
}

// (numel, num_dims, dims and strides of both, lhs, rhs, out)
template <class T>
Kernel binary(char operation) {
    return [operation](void** a) {
        size_t count = argument<size_t>(a, 0), num_dims = argument<size_t>(a, 1);
        const size_t* info = argument<const size_t*>(a, 2);
        const T *lhs = argument<const T*>(a, 3), *rhs = argument<const T*>(a, 4);
        T* to = argument<T*>(a, 5);
        using Wide = std::conditional_t<std::is_arithmetic_v<T>, T, float>;
        for (size_t i = 0; i < count; i++) {
            Wide x = static_cast<Wide>(lhs[info ? strided(i, num_dims, info, info + num_dims) : i]);
            Wide y = static_cast<Wide>(rhs[info ? strided(i, num_dims, info, info + 2 * num_dims) : i]);
            to[i] = static_cast<T>(operation == '+' ? x + y : operation == '-' ? x - y : operation == '*' ? x * y : x / y);
        }
    };
}

template <class T>
Kernel named(const std::string& name) {
    if (name == "ucopy") return copy<T, T>();
    if (name == "copy2d") return copy2d<T>();
    if (name == "fill") return fill<T>();
    if (name == "const_set") return set<T>();
    if (name == "cast_u8") return copy<uint8_t, T>();
    if (name == "cast_u32") return copy<uint32_t, T>();
    if (name == "cast_i64") return copy<int64_t, T>();
    if (name == "cast_f32") return copy<float, T>();
    if (name == "cast_f64") return copy<double, T>();
    if (name == "cast_bf16") return copy<__nv_bfloat16, T>();
    if (name == "cast_f8_e4m3") return copy<__nv_fp8_e4m3, T>();
    if constexpr (!std::is_same_v<T, __nv_fp8_e4m3>) {
        if (name == "affine") return affine<T>();
        if (name == "badd") return binary<T>('+');
        if (name == "bsub") return binary<T>('-');
        if (name == "bmul") return binary<T>('*');
        if (name == "bdiv") return binary<T>('/');
    }
    return nullptr;
}

// A kernel by its name, an operation and then a type; empty where there is none here.
inline Kernel find(const std::string& name) {
    auto of = [&](const char* type) {
        std::string ending = std::string("_") + type;
        bool ends = name.size() > ending.size() && name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
        return ends ? name.substr(0, name.size() - ending.size()) : std::string();
    };
    if (auto operation = of("f8_e4m3"); !operation.empty()) return named<__nv_fp8_e4m3>(operation);
    if (auto operation = of("bf16"); !operation.empty()) return named<__nv_bfloat16>(operation);
    if (auto operation = of("f32"); !operation.empty()) return named<float>(operation);
    if (auto operation = of("f64"); !operation.empty()) return named<double>(operation);
    if (auto operation = of("u8"); !operation.empty()) return named<uint8_t>(operation);
    if (auto operation = of("u32"); !operation.empty()) return named<uint32_t>(operation);
    if (auto operation = of("i64"); !operation.empty()) return named<int64_t>(operation);
    return nullptr;
}

}  // namespace candle

// An emulated `libcublasLt.so.13`: products by their definition, in f32, with what the program asks for: strides, transposes, factors,
// C apart from D, a bias for each row, and scales of 8-bit operands for each row. Matrices are column-major, as in cuBLASLt.
//
// A product whose factors have padding between their rows sums in another order than one whose factors have none: cuBLASLt may choose
// another algorithm for it, and code that promises equal bits must ask the same question twice.
//
// MAQAM_EMULATED_CANDIDATES is the number of algorithms that are offered for a product, 1 otherwise. Every second one sums in the other order.
// One of them is fast: the last, or the one of the number MAQAM_EMULATED_FASTEST, from 0. The others take more than twice its time.
// MAQAM_EMULATED_REFUSED is the number of one that is neither offered nor computed, as another version of the library may refuse it.
//
// MAQAM_EMULATED_PLAIN_PRODUCTS refuses every bias, as it is refused on a GPU for some shapes, and what is added to products of 8 bits and
// to products in f32. MAQAM_EMULATED_EVEN_PRODUCTS refuses products of 8 bits whose columns are no multiple of 16.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "../emulator/types.h"

using Status = int;

extern "C" void maqam_gpu_require(const char* what, const void* pointer, size_t bytes);
extern "C" void maqam_gpu_account(const char* name, double seconds);
extern "C" double maqam_gpu_now();
extern "C" void maqam_gpu_pretend(double seconds);
extern "C" int maqam_gpu_fault(const char* name);

namespace {

constexpr Status SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15;
constexpr int F32 = 0, BF16 = 14, E4M3 = 28;
constexpr int COMPUTE_32F = 68;
constexpr int NOT_TRANSPOSED = 0, TRANSPOSED = 1;
constexpr int NO_EPILOGUE = 1, BIAS = 4;
constexpr int SCALE_OUTER_VECTOR = 3;
// Attributes of a description: their number and their size in bytes.
enum Attribute { TRANS_A = 3, TRANS_B = 4, EPILOGUE = 7, BIAS_POINTER = 8, A_SCALE = 17, B_SCALE = 18, FAST_ACCUMULATION = 25, BIAS_TYPE = 26, A_SCALE_MODE = 31, B_SCALE_MODE = 32 };
const std::map<int, size_t> SIZES = {{TRANS_A, 4}, {TRANS_B, 4}, {EPILOGUE, 4}, {BIAS_POINTER, 8}, {A_SCALE, 8}, {B_SCALE, 8}, {FAST_ACCUMULATION, 1}, {BIAS_TYPE, 4}, {A_SCALE_MODE, 4}, {B_SCALE_MODE, 4}};

struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t stride;
};

struct Description {
    std::map<int, uint64_t> set;

    uint64_t get(int attribute, uint64_t otherwise) const {
        auto found = set.find(attribute);
        return found == set.end() ? otherwise : found->second;
    }
};

Status refuse(const char* function, const char* what) {
    fprintf(stderr, "emulated cuBLASLt: %s: %s\n", function, what);
    return INVALID_VALUE;
}

size_t bytes_of(int type) { return type == F32 ? 4 : type == BF16 ? 2 : 1; }

float load(const void* from, size_t i, int type) {
    if (type == F32) return static_cast<const float*>(from)[i];
    if (type == BF16) return emulated::float_of_bf16(static_cast<const unsigned short*>(from)[i]);
    static const std::vector<float> TABLE = [] {
        std::vector<float> table(256);
        for (int code = 0; code < 256; code++) table[code] = emulated::float_of_e4m3(static_cast<unsigned char>(code));
        return table;
    }();
    return TABLE[static_cast<const unsigned char*>(from)[i]];
}

void require(const char* what, const void* pointer, const Layout& layout) {
    if (layout.rows && layout.cols) maqam_gpu_require(what, pointer, ((layout.cols - 1) * layout.stride + layout.rows) * bytes_of(layout.type));
}

struct Operands {
    const Description& description;
    const Layout &a, &b, &c, &d;

    bool is_transposed(int attribute) const { return description.get(attribute, NOT_TRANSPOSED) == TRANSPOSED; }
    size_t inner() const { return is_transposed(TRANS_A) ? a.rows : a.cols; }
    bool has_bias() const { return description.get(EPILOGUE, NO_EPILOGUE) == BIAS; }
    bool is_scaled() const { return description.get(A_SCALE, 0) || description.get(B_SCALE, 0); }
};

// What cuBLASLt would not do, or what would be wrong to ask of it; null where the product can be computed.
const char* fault(const Operands& of) {
    uint64_t rows = of.is_transposed(TRANS_A) ? of.a.cols : of.a.rows, cols = of.is_transposed(TRANS_B) ? of.b.rows : of.b.cols;
    uint64_t inner = of.is_transposed(TRANS_B) ? of.b.cols : of.b.rows;
    if (rows != of.d.rows || cols != of.d.cols || inner != of.inner() || of.c.rows != of.d.rows || of.c.cols != of.d.cols) return "the dimensions do not fit";
    for (const Layout* layout : {&of.a, &of.b, &of.c, &of.d}) {
        if (layout->stride < int64_t(layout->rows) || layout->rows == 0 || layout->cols == 0) return "a leading dimension is less than the rows, or a matrix is empty";
    }
    if (of.a.type != of.b.type) return "operands of two types";
    if (of.c.type != of.d.type || (of.d.type != F32 && of.d.type != BF16)) return "C and D are of two types, or of one that is not emulated";
    if (of.a.type == F32 && of.d.type != F32) return "operands in f32 with a result that is not";
    if (of.a.type == E4M3) {
        bool fits = of.is_transposed(TRANS_A) && !of.is_transposed(TRANS_B) && of.d.rows % 16 == 0 && of.inner() % 16 == 0;
        if (!fits) return "8-bit operands need A transposed, B not, and dimensions that are multiples of 16";
        uint64_t modes[] = {of.description.get(A_SCALE_MODE, 0), of.description.get(B_SCALE_MODE, 0)};
        if (of.is_scaled() && (modes[0] != SCALE_OUTER_VECTOR || modes[1] != SCALE_OUTER_VECTOR)) return "a mode of scaling that is not emulated";
        if (of.is_scaled() && of.d.type != BF16) return "scales for each row need a result in bf16";
    } else if (of.is_scaled()) {
        return "scales of operands that are not of 8 bits";
    }
    uint64_t epilogue = of.description.get(EPILOGUE, NO_EPILOGUE);
    if (epilogue != NO_EPILOGUE && epilogue != BIAS) return "an epilogue that is not emulated";
    if (of.has_bias() && (of.description.get(BIAS_TYPE, of.d.type) != BF16 || of.d.type != BF16)) return "a bias that is not bf16, or that is added to something else";
    return nullptr;
}

// An operand as rows of `inner` consecutive floats, one row for each row (or column) of the result.
std::vector<float> packed(const void* from, const Layout& layout, bool inner_is_rows, size_t inner) {
    size_t count = inner_is_rows ? layout.cols : layout.rows;
    std::vector<float> rows(count * inner);
    for (size_t col = 0; col < layout.cols; col++) {
        for (size_t row = 0; row < layout.rows; row++) {
            float value = load(from, col * layout.stride + row, layout.type);
            rows[inner_is_rows ? col * inner + row : row * inner + col] = value;
        }
    }
    return rows;
}

// Lanes of one accumulation, and the numbers of A's and B's rows that share what is read.
constexpr size_t LANES = 16, TILE = 4;
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

// Inner products of `TILE` rows with `TILE` rows; each is a sum of `LANES` partial sums, ascending or descending.
void multiply_tile(float (&sums)[TILE][TILE], const float* const (&a)[TILE], const float* const (&b)[TILE], size_t inner, bool is_reversed) {
    Lanes lanes[TILE][TILE] = {};
    size_t k = 0;
    for (; k + LANES <= inner; k += LANES) {
        Lanes of_b[TILE];
        for (size_t j = 0; j < TILE; j++) of_b[j] = *reinterpret_cast<const Lanes*>(b[j] + k);
        for (size_t i = 0; i < TILE; i++) {
            Lanes of_a = *reinterpret_cast<const Lanes*>(a[i] + k);
            for (size_t j = 0; j < TILE; j++) lanes[i][j] += of_a * of_b[j];
        }
    }
    for (size_t i = 0; i < TILE; i++) {
        for (size_t j = 0; j < TILE; j++) {
            float sum = 0.0f;
            for (size_t lane = 0; lane < LANES; lane++) sum += lanes[i][j][is_reversed ? LANES - 1 - lane : lane];
            for (size_t rest = k; rest < inner; rest++) sum += a[i][rest] * b[j][rest];
            sums[i][j] = sum;
        }
    }
}

void multiply(const Operands& of, float alpha, const void* a, const void* b, float beta, const void* c, void* d, bool is_other) {
    size_t inner = of.inner(), m = of.d.rows, n = of.d.cols;
    bool is_padded = of.a.stride > int64_t(of.a.rows) || of.b.stride > int64_t(of.b.rows);
    std::vector<float> rows = packed(a, of.a, of.is_transposed(TRANS_A), inner), cols = packed(b, of.b, !of.is_transposed(TRANS_B), inner);
    auto pointer = [&](int attribute) { return reinterpret_cast<const void*>(of.description.get(attribute, 0)); };
    const auto *row_scales = static_cast<const float*>(pointer(A_SCALE)), *col_scales = static_cast<const float*>(pointer(B_SCALE));
    auto finish = [&](size_t i, size_t j, float sum) {
        float value = alpha * sum * (row_scales ? row_scales[i] : 1.0f) * (col_scales ? col_scales[j] : 1.0f);
        // With beta = 0 C is not read.
        if (beta != 0.0f) value += beta * load(c, j * of.c.stride + i, of.c.type);
        if (of.has_bias()) value += load(pointer(BIAS_POINTER), i, BF16);
        size_t at = j * of.d.stride + i;
        if (of.d.type == F32) {
            static_cast<float*>(d)[at] = value;
        } else {
            static_cast<unsigned short*>(d)[at] = emulated::bf16_of(value);
        }
    };
    for (size_t j = 0; j < n; j += TILE) {
        for (size_t i = 0; i < m; i += TILE) {
            const float *of_a[TILE], *of_b[TILE];
            for (size_t t = 0; t < TILE; t++) of_a[t] = &rows[std::min(i + t, m - 1) * inner], of_b[t] = &cols[std::min(j + t, n - 1) * inner];
            float sums[TILE][TILE];
            multiply_tile(sums, of_a, of_b, inner, is_padded != is_other);
            for (size_t u = 0; u < TILE && j + u < n; u++) {
                for (size_t t = 0; t < TILE && i + t < m; t++) finish(i + t, j + u, sums[t][u]);
            }
        }
    }
}

std::mutex lock;

constexpr uint64_t MOST_CANDIDATES = 8;

uint64_t setting(const char* name, uint64_t otherwise) {
    const char* set = getenv(name);
    return set == nullptr ? otherwise : strtoull(set, nullptr, 10);
}

bool is_plain() {
    static const bool plain = getenv("MAQAM_EMULATED_PLAIN_PRODUCTS") != nullptr;
    return plain;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED Status cublasLtCreate(void** handle) { return *handle = new char, SUCCESS; }
EXPORTED Status cublasLtDestroy(void* handle) { return delete static_cast<char*>(handle), SUCCESS; }

EXPORTED Status cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t cols, int64_t stride) {
    if (type != F32 && type != BF16 && type != E4M3) return refuse("cublasLtMatrixLayoutCreate", "a type that is not emulated");
    return *layout = new Layout{type, rows, cols, stride}, SUCCESS;
}
EXPORTED Status cublasLtMatrixLayoutDestroy(void* layout) { return delete static_cast<Layout*>(layout), SUCCESS; }

EXPORTED Status cublasLtMatmulDescCreate(void** description, int compute, int scale) {
    if (compute != COMPUTE_32F || scale != F32) return refuse("cublasLtMatmulDescCreate", "products are emulated in f32 alone");
    return *description = new Description(), SUCCESS;
}
EXPORTED Status cublasLtMatmulDescDestroy(void* description) { return delete static_cast<Description*>(description), SUCCESS; }

EXPORTED Status cublasLtMatmulDescSetAttribute(void* description, int attribute, const void* value, size_t bytes) {
    auto known = SIZES.find(attribute);
    if (known == SIZES.end() || known->second != bytes) {
        fprintf(stderr, "attribute %d of %zu bytes: ", attribute, bytes);
        return refuse("cublasLtMatmulDescSetAttribute", "an attribute that is not emulated, or of another size");
    }
    uint64_t wide = 0;
    memcpy(&wide, value, bytes);
    static_cast<Description*>(description)->set[attribute] = wide;
    return SUCCESS;
}

EXPORTED Status cublasLtMatmulPreferenceCreate(void** preference) { return *preference = new char, SUCCESS; }
EXPORTED Status cublasLtMatmulPreferenceDestroy(void* preference) { return delete static_cast<char*>(preference), SUCCESS; }
EXPORTED Status cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }

struct Heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    Status state;
    float waves;
    int reserved[4];
};
constexpr uint64_t ALGORITHM = 0x6d6171616d;

// Words of a description: what all of them begin with, and the number of the algorithm.
bool is_known(const uint64_t* algorithm) { return algorithm[0] == ALGORITHM && algorithm[1] < MOST_CANDIDATES; }
bool is_refused(const uint64_t* algorithm) { return algorithm[1] == setting("MAQAM_EMULATED_REFUSED", MOST_CANDIDATES); }

EXPORTED size_t cublasLtGetVersion() { return 130002; }

EXPORTED Status cublasLtMatmulAlgoCheck(void*, const Description* description, const Layout* a, const Layout* b, const Layout* c, const Layout* d, const uint64_t* algorithm,
                                        Heuristic* result) {
    Operands operands{*description, *a, *b, *c, *d};
    if (fault(operands) != nullptr || !is_known(algorithm)) return INVALID_VALUE;
    if (is_refused(algorithm)) return NOT_SUPPORTED;
    *result = Heuristic{{}, 0, SUCCESS, 1.0f, {}};
    std::copy(algorithm, algorithm + 8, result->algorithm);
    return SUCCESS;
}

EXPORTED Status cublasLtMatmulAlgoGetHeuristic(void*, const Description* description, const Layout* a, const Layout* b, const Layout* c, const Layout* d, void*, int wanted,
                                               Heuristic* results, int* found) {
    *found = 0;
    Operands operands{*description, *a, *b, *c, *d};
    if (const char* why = fault(operands)) {
        fprintf(stderr, "emulated cuBLASLt: no algorithm: %s\n", why);
        return NOT_SUPPORTED;
    }
    if (wanted < 1) return INVALID_VALUE;
    if (is_plain() && operands.has_bias()) return NOT_SUPPORTED;
    static const bool is_even = getenv("MAQAM_EMULATED_EVEN_PRODUCTS") != nullptr;
    if (is_even && a->type == E4M3 && d->cols % 16 != 0) return NOT_SUPPORTED;
    uint64_t offered = std::min<uint64_t>(setting("MAQAM_EMULATED_CANDIDATES", 1), MOST_CANDIDATES);
    for (uint64_t number = 0; number < offered && *found < wanted; number++) {
        Heuristic one{{ALGORITHM, number}, 0, SUCCESS, 1.0f, {}};
        if (!is_refused(one.algorithm)) results[(*found)++] = one;
    }
    return *found > 0 ? SUCCESS : NOT_SUPPORTED;
}

EXPORTED Status cublasLtMatmul(void*, const Description* description, const float* alpha, const void* a, const Layout* of_a, const void* b, const Layout* of_b,
                               const float* beta, const void* c, const Layout* of_c, void* d, const Layout* of_d, const uint64_t* algorithm, void*, size_t, void*) {
    Operands operands{*description, *of_a, *of_b, *of_c, *of_d};
    if (const char* why = fault(operands)) return refuse("cublasLtMatmul", why);
    if (algorithm != nullptr && !is_known(algorithm)) return refuse("cublasLtMatmul", "an algorithm that was never given out");
    if (algorithm != nullptr && is_refused(algorithm)) return NOT_SUPPORTED;
    if (is_plain() && (of_a->type == E4M3 || of_d->type == F32) && *beta != 0.0f) return NOT_SUPPORTED;
    switch (maqam_gpu_fault("product")) {
        case 1: return SUCCESS;
        case 2: return EXECUTION_FAILED;
    }
    std::lock_guard<std::mutex> held(lock);
    double start = maqam_gpu_now();
    require("cublasLtMatmul reads A outside of an allocation", a, *of_a);
    require("cublasLtMatmul reads B outside of an allocation", b, *of_b);
    require("cublasLtMatmul writes outside of an allocation", d, *of_d);
    if (*beta != 0.0f) require("cublasLtMatmul reads C outside of an allocation", c, *of_c);
    auto vector = [&](const char* what, int attribute, size_t bytes) {
        uint64_t at = description->get(attribute, 0);
        if (at) maqam_gpu_require(what, reinterpret_cast<const void*>(at), bytes);
    };
    vector("cublasLtMatmul reads scales of A outside of an allocation", A_SCALE, of_d->rows * sizeof(float));
    vector("cublasLtMatmul reads scales of B outside of an allocation", B_SCALE, of_d->cols * sizeof(float));
    if (operands.has_bias()) vector("cublasLtMatmul reads a bias outside of an allocation", BIAS_POINTER, of_d->rows * 2);
    uint64_t number = algorithm == nullptr ? 0 : algorithm[1];
    multiply(operands, *alpha, a, b, *beta, c, d, number % 2 == 1);
    double seconds = maqam_gpu_now() - start;
    uint64_t offered = setting("MAQAM_EMULATED_CANDIDATES", 1);
    if (offered > 1 && number != setting("MAQAM_EMULATED_FASTEST", offered - 1)) maqam_gpu_pretend(seconds + 1e-3);
    maqam_gpu_account(of_a->type == E4M3 ? "product of fp8" : of_a->type == BF16 ? "product of bf16" : "product of f32", seconds);
    return SUCCESS;
}

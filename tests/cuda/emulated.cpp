// All kernels behind one function that finds them by name. Each file is included inside a namespace, so that names of one do not
// meet names of another; what several share lies in headers, which are included here first. Compiled with
// `-I crates/engine/src/ops/cuda/kernels -I tests/cuda/include` by tests/it/cuda_kernels/compile.rs.

#include "emulator.h"

#include "common.cuh"
#include "attention_softmax.cuh"

namespace samples {
#include "samples.cu"
}

namespace norm {
#include "norm.cu"
}
namespace adapter {
#include "adapter.cu"
}
namespace activation {
#include "activation.cu"
}
namespace rotary {
#include "rotary.cu"
}
namespace rows {
#include "rows.cu"
}
namespace convolution {
#include "convolution.cu"
}
namespace dropout {
#include "dropout.cu"
}
namespace cross_entropy {
#include "cross_entropy.cu"
}
namespace optimiser {
#include "optimiser.cu"
}
namespace attention_forward {
#include "attention_forward.cu"
}
namespace attention_backward_keys {
#include "attention_backward_keys.cu"
}
namespace attention_backward_queries {
#include "attention_backward_queries.cu"
}
namespace adapter_backward {
#include "adapter_backward.cu"
}
namespace attention_step {
#include "attention_step.cu"
}
namespace fp8 {
#include "fp8.cu"
}

namespace {

#define MAQAM_KERNEL(file, name) \
    {#name, emulated::Entry<&file::name>::run, emulated::Entry<&file::name>::COUNT, emulated::Entry<&file::name>::KINDS.data(), emulated::Entry<&file::name>::SIZES.data()},
const emulated::Kernel KERNELS[] = {
#include "registry.inc"
};
#undef MAQAM_KERNEL

std::mutex lock;

const emulated::Kernel* find(const char* name) {
    for (const emulated::Kernel& kernel : KERNELS) {
        if (strcmp(kernel.name, name) == 0) return &kernel;
    }
    return nullptr;
}

int run(const char* name, dim3 grid, dim3 dim, size_t shared_bytes, void** arguments, bool is_reversed) {
    std::lock_guard<std::mutex> held(lock);
    const emulated::Kernel* kernel = find(name);
    if (kernel == nullptr) {
        snprintf(emulated::error, sizeof emulated::error, "no kernel `%s` in tests/cuda/registry.inc", name);
        return 1;
    }
    return !emulated::launch(kernel->name, kernel->run, arguments, grid, dim, shared_bytes, is_reversed);
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Runs a kernel over host memory: 0, or 1 with a message from `maqam_emulate_error`.
EXPORTED int maqam_emulate(const char* kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, size_t shared_bytes, void** arguments) {
    return run(kernel, {gx, gy, gz}, {bx, by, bz}, shared_bytes, arguments, false);
}

// The same with blocks and threads in descending order: a result that differs depends on an order that a device does not promise.
EXPORTED int maqam_emulate_reversed(const char* kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, size_t shared_bytes,
                                    void** arguments) {
    return run(kernel, {gx, gy, gz}, {bx, by, bz}, shared_bytes, arguments, true);
}

// What went wrong in the last launch, until the next.
EXPORTED const char* maqam_emulate_error() { return emulated::error; }

// Kinds (see `emulated::KIND`) and sizes of a kernel's parameters; their number, or -1 where there is no such kernel.
EXPORTED long maqam_emulate_parameters(const char* name, const char** kinds, const size_t** sizes) {
    const emulated::Kernel* kernel = find(name);
    if (kernel == nullptr) return -1;
    *kinds = kernel->kinds;
    *sizes = kernel->sizes;
    return static_cast<long>(kernel->num_parameters);
}

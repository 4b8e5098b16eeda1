// Emulated `libcublas.so.13` and `libcurand.so.10`: what candle opens when it opens a GPU, and never uses here.

#define EXPORTED extern "C" __attribute__((visibility("default")))

#if defined(MAQAM_CUBLAS)
EXPORTED int cublasCreate_v2(void** handle) { return *handle = new char, 0; }
EXPORTED int cublasDestroy_v2(void* handle) { return delete static_cast<char*>(handle), 0; }
EXPORTED int cublasSetStream_v2(void*, void*) { return 0; }
#else
EXPORTED int curandCreateGenerator(void** generator, int) { return *generator = new char, 0; }
EXPORTED int curandDestroyGenerator(void* generator) { return delete static_cast<char*>(generator), 0; }
EXPORTED int curandSetStream(void*, void*) { return 0; }
EXPORTED int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
EXPORTED int curandSetGeneratorOffset(void*, unsigned long long) { return 0; }
#endif

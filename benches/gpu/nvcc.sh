# Sourced: sets `nvcc` to the toolkit's compiler, or to nothing where there is none. As in crates/engine/build.rs. It sets no other
# variable of its caller.
find_nvcc() {
  local toolkit
  for toolkit in "${CUDA_HOME:-}" "${CUDA_PATH:-}" "${CUDA_ROOT:-}" "${CUDA_TOOLKIT_ROOT_DIR:-}"; do
    if [ -n "$toolkit" ] && [ -x "$toolkit/bin/nvcc" ]; then
      echo "$toolkit/bin/nvcc"
      return
    fi
  done
  command -v nvcc || if [ -x /usr/local/cuda/bin/nvcc ]; then echo /usr/local/cuda/bin/nvcc; fi
}
nvcc=$(find_nvcc)

//! Loops compiled for the vectors of the processor.

use pulp::WithSimd;

/// Runs a loop on vectors of 256 bits if the processor has them. With wider ones the compiler joins
/// narrow lanes, and moving the values costs more than it saves.
#[inline(always)]
pub(super) fn on_256_bits<Loop: WithSimd>(body: Loop) -> Loop::Output {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return pulp::Simd::vectorize(simd, body);
    }
    pulp::Arch::new().dispatch(body)
}

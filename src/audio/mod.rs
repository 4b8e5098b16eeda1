//! placeholder
/// m
pub const MELS: usize = 128;
/// L
#[derive(Clone, Debug)]
pub struct LogMel {
    /// f
    pub frames: usize,
    /// v
    pub values: Vec<f32>,
}

//! Audio files: the span of a clip.

/// A part of an audio file; `None` is the file's own start or end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// Where the clip starts, in seconds.
    pub start_s: Option<f64>,
    /// Where the clip ends, in seconds.
    pub end_s: Option<f64>,
}

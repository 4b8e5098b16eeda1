//! From the frames of a clip to windows, positions and tokens of an audio encoder.

use maqam_audio::num_audio_tokens;

/// Windows of one encoder, and their reduction to tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Frames that are convolved at once.
    pub window: usize,
    /// Reduction of frames to tokens.
    pub reduction: Reduction,
}

/// Reduction of frames to tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// A convolution halves them, attention stays inside a window, and pairs of positions are
    /// averaged (Whisper, Qwen2.5-Omni).
    Quarter,
    /// Three convolutions halve them. Each window is filled with zeros first. Several windows
    /// attend to each other (Qwen3-ASR).
    Eighth {
        /// Windows that attend to each other.
        chunks: usize,
    },
    /// Frames are samples, and a clip is one window of any length. Convolutions without padding
    /// turn it into positions, and positions in stacks, the last of which may be partly filled,
    /// into tokens (HuBERT before a decoder).
    Samples {
        /// Samples that one position sees.
        field: usize,
        /// Samples from one position to the next.
        stride: usize,
        /// Positions of a token.
        stack: usize,
    },
}

impl From<usize> for Framing {
    fn from(window: usize) -> Self {
        Self {
            window,
            reduction: Reduction::Quarter,
        }
    }
}

impl Framing {
    /// Positions that the convolutions give for `frames` of one window.
    pub fn positions(self, frames: usize) -> usize {
        match self.reduction {
            Reduction::Quarter => frames.div_ceil(2),
            Reduction::Eighth { .. } => frames.div_ceil(8),
            // A chain of convolutions without padding is one of their common field and stride:
            // floors of floors are one floor.
            Reduction::Samples { field, stride, .. } => match frames.checked_sub(field) {
                Some(beyond) => beyond / stride + 1,
                None => 0,
            },
        }
    }

    /// Tokens that `positions` of a clip give.
    pub fn tokens_of(self, positions: usize) -> usize {
        match self.reduction {
            Reduction::Quarter => positions / 2,
            Reduction::Eighth { .. } => positions,
            Reduction::Samples { stack, .. } => positions.div_ceil(stack),
        }
    }

    /// Tokens of a clip with `frames`.
    pub fn tokens(self, frames: usize) -> usize {
        match self.reduction {
            Reduction::Quarter => num_audio_tokens(frames),
            Reduction::Eighth { .. } => {
                let whole = frames / self.window * self.positions(self.window);
                whole + self.positions(frames % self.window)
            }
            Reduction::Samples { .. } => self.tokens_of(self.positions(frames)),
        }
    }

    /// Most positions that attend to each other; no limit where a clip is one window.
    pub fn attended(self) -> usize {
        match self.reduction {
            Reduction::Quarter => self.positions(self.window),
            Reduction::Eighth { chunks } => chunks * self.positions(self.window),
            Reduction::Samples { .. } => usize::MAX,
        }
    }

    /// Whether the last window of a clip is filled up with zeros.
    pub fn is_filled(self) -> bool {
        matches!(self.reduction, Reduction::Eighth { .. })
    }

    /// Frames after the last ones of a clip that the convolutions read; `tail` is the padding that
    /// the clip has.
    pub fn padding(self, frames: usize, tail: usize) -> usize {
        match self.is_filled() {
            true => self.window - frames,
            false => tail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_qwen3_asr_are_those_of_its_formula() {
        let framing = Framing {
            window: 100,
            reduction: Reduction::Eighth { chunks: 8 },
        };
        // 13 (n // 100) + ceil((n % 100) / 8), as the processor counts.
        for frames in 1..1000usize {
            let expected = 13 * (frames / 100) + (frames % 100).div_ceil(8);
            assert_eq!(framing.tokens(frames), expected, "{frames}");
        }
        assert_eq!(framing.attended(), 104);
    }

    #[test]
    fn tokens_of_samples_are_stacks_of_the_convolutions_frames() {
        // 10 samples in steps of 5, then 3 of those in steps of 2: a field of 20 samples, a stride
        // of 10.
        let frames = |samples: usize| {
            let after = |len: usize, kernel: usize, stride: usize| match len.checked_sub(kernel) {
                Some(beyond) => beyond / stride + 1,
                None => 0,
            };
            after(after(samples, 10, 5), 3, 2)
        };
        for stack in 1..5 {
            let framing = Framing {
                window: usize::MAX,
                reduction: Reduction::Samples {
                    field: 20,
                    stride: 10,
                    stack,
                },
            };
            for samples in 0..300 {
                assert_eq!(framing.positions(samples), frames(samples), "{samples}");
                assert_eq!(framing.tokens(samples), frames(samples).div_ceil(stack));
            }
        }
    }

    #[test]
    fn whispers_windows_give_as_many_tokens_as_the_whole() {
        let framing = Framing::from(200);
        for frames in [1, 3, 199, 200, 201, 455, 3000] {
            let positions: usize = (0..frames)
                .step_by(200)
                .map(|start| framing.positions(200.min(frames - start)))
                .sum();
            assert_eq!(framing.tokens_of(positions), framing.tokens(frames));
        }
    }
}

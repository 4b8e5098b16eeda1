//! Work of stated shape: how many examples of how many tokens and seconds.

use crate::audio::LogMel;
use crate::batch::Framing;
use crate::batch::Sequence;
use crate::models::config::Config;
use crate::models::cost;
use crate::seed::Key;

/// Kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Clips of 10 s and what was said.
    Asr,
    /// Clips of 3 s.
    Short,
    /// Clips of 60 s and a summary.
    Ssum,
    /// A quarter each of ASR, dialect, emotion, summaries.
    Mix,
}

/// Tokens and audio of one example: prompt and target tokens, seconds of audio.
#[derive(Clone, Copy)]
pub struct Example {
    /// Tokens of the prompt beside the audio.
    pub prompt: usize,
    /// Seconds of audio.
    pub seconds: usize,
    /// Target tokens.
    pub target: usize,
}

impl Work {
    /// The examples of a step.
    pub fn examples(self, clips: Option<usize>) -> Vec<Example> {
        let asr = Example {
            prompt: 40,
            seconds: 10,
            target: 50,
        };
        let ssum = Example {
            prompt: 40,
            seconds: 60,
            target: 80,
        };
        match self {
            Self::Asr => vec![asr; clips.unwrap_or(16)],
            Self::Short => vec![
                Example {
                    prompt: 60,
                    seconds: 3,
                    target: 10
                };
                clips.unwrap_or(16)
            ],
            Self::Ssum => vec![ssum; clips.unwrap_or(8)],
            Self::Mix => {
                let kinds = [
                    Example {
                        prompt: 40,
                        seconds: 8,
                        target: 45,
                    },
                    Example {
                        prompt: 60,
                        seconds: 10,
                        target: 4,
                    },
                    Example {
                        prompt: 60,
                        seconds: 4,
                        target: 4,
                    },
                    ssum,
                ];
                (0..clips.unwrap_or(16))
                    .map(|i| kinds[i * kinds.len() / clips.unwrap_or(16)])
                    .collect()
            }
        }
    }
}

impl Example {
    /// A sequence of these lengths; which tokens and frames does not matter to the time.
    pub fn sequence(self, index: usize, vocab: usize, mels: usize, framing: Framing) -> Sequence {
        let frames = self.seconds * 100;
        let audio = framing.tokens(frames);
        let key = Key::new(0, "bench").with(index as u64);
        let before = self.prompt / 2;
        let len = self.prompt + audio + self.target;
        let tokens = (0..len as u64)
            .map(|i| key.below(i, vocab.min(100_000)) as u32)
            .collect();
        let values = (0..(frames * mels) as u64)
            .map(|i| key.with(1).uniform(i) as f32)
            .collect();
        let features = std::sync::Arc::new(LogMel {
            mels,
            frames,
            tail: 0,
            values,
        });
        let targets = len - self.target..len;
        let clip = before..before + audio;
        Sequence {
            tokens,
            targets: vec![targets],
            audio: vec![clip],
            features: vec![features],
            key,
            target_weight: 1.0,
        }
    }
}

/// What sequences take together.
pub fn load_of(sequences: &[Sequence]) -> cost::Load {
    let mut load = cost::Load::default();
    for sequence in sequences {
        load.add(
            sequence.tokens.len(),
            sequence.audio.iter().map(ExactSizeIterator::len).sum(),
            sequence.num_targets(),
        );
    }
    load
}

/// The sequences of a step, whose loss is the mean over its targets.
pub fn sequences(work: Work, clips: Option<usize>, config: &Config) -> Vec<Sequence> {
    let vocab = config.text.vocab_size;
    let mels = config.audio.num_mel_bins;
    let mut sequences: Vec<Sequence> = work
        .examples(clips)
        .iter()
        .enumerate()
        .map(|(i, example)| example.sequence(i, vocab, mels, config.framing()))
        .collect();
    let num_targets: usize = sequences.iter().map(Sequence::num_targets).sum();
    sequences
        .iter_mut()
        .for_each(|sequence| sequence.target_weight = 1.0 / num_targets as f64);
    sequences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_have_the_tokens_that_peers_are_measured_with() {
        let load = |work: Work| {
            load_of(
                &work
                    .examples(None)
                    .iter()
                    .enumerate()
                    .map(|(i, example)| example.sequence(i, 100, crate::audio::MELS, 200.into()))
                    .collect::<Vec<_>>(),
            )
        };
        let of = |work| {
            (
                load(work).tokens,
                load(work).audio_tokens,
                load(work).targets,
            )
        };
        assert_eq!(of(Work::Asr), (16.0 * 340.0, 16.0 * 250.0, 16.0 * 50.0));
        assert_eq!(of(Work::Ssum), (8.0 * 1620.0, 8.0 * 1500.0, 8.0 * 80.0));
        let audio = 4.0 * (200.0 + 250.0 + 100.0 + 1500.0);
        assert_eq!(
            of(Work::Mix),
            (
                audio + 4.0 * (85.0 + 64.0 + 64.0 + 120.0),
                audio,
                4.0 * (45.0 + 4.0 + 4.0 + 80.0)
            )
        );
    }
}

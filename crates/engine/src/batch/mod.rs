//! Picked examples become one packed batch: tokens one after the other, audio windows one after the
//! other, and where each belongs.
//!
//! ```text
//! tokens      | prompt  AUDIO AUDIO  prompt  answer end | prompt  AUDIO ...
//! cu_seqlens  0                                         n
//! positions   0 1 2 ...                                   0 1 2 ...
//! targets                            ^ the rows whose next token is part of an answer
//! ```

mod framing;

use std::ops::Range;
use std::sync::Arc;

pub use self::framing::Framing;
pub use self::framing::Reduction;
use maqam_audio::LogMel;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// One example: its tokens, and the features of its clips.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// The whole conversation.
    pub tokens: Vec<u32>,
    /// Ranges of `tokens` that are answers.
    pub targets: Vec<Range<usize>>,
    /// Ranges of `tokens` that stand for audio, one for each clip.
    pub audio: Vec<Range<usize>>,
    /// The clips, in the order of `audio`.
    pub features: Vec<Arc<LogMel>>,
    /// Stream of random numbers of this example in this step.
    pub key: Key,
    /// Factor of each target token in the loss.
    pub target_weight: f64,
}

impl Sequence {
    /// Number of target tokens.
    pub fn num_targets(&self) -> usize {
        self.targets.iter().map(ExactSizeIterator::len).sum()
    }
}

/// A packed batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[tokens]`.
    pub tokens: Vec<u32>,
    /// Position of each token in its sequence, `[tokens]`.
    pub positions: Vec<u32>,
    /// Starts of the sequences, and the number of tokens at the end.
    pub cu_seqlens: Vec<usize>,
    /// One stream for each token, `[tokens]`.
    pub token_keys: Vec<Key>,
    /// The audio; `None` where no sequence has any.
    pub audio: Option<Audio>,
    /// Rows of the batch that the audio tokens take, in the order of the audio.
    pub audio_rows: Vec<u32>,
    /// Rows whose next token is a target.
    pub target_rows: Vec<u32>,
    /// These next tokens.
    pub target_ids: Vec<u32>,
    /// Their factors in the loss.
    pub target_weights: Vec<f64>,
    /// The sequence each target belongs to.
    pub target_sequences: Vec<u32>,
}

/// The clips of a batch, cut into windows that are encoded one by one.
#[derive(Clone, Debug)]
pub struct Audio {
    /// Windows of the encoder, and their reduction to tokens.
    pub framing: Framing,
    /// Mel bands of a frame.
    pub mels: usize,
    /// Log-mel frames, `[frames, mels]`, clip after clip.
    pub features: Vec<f32>,
    /// Frames of each window, those of the padding that convolutions reach into with them.
    pub windows: Vec<usize>,
    /// Positions of each window after the convolutions; the padding gives none.
    pub positions: Vec<usize>,
    /// Positions that attend to each other, in stretches that follow each other.
    pub attended: Vec<usize>,
    /// Positions of each clip.
    pub clip_positions: Vec<usize>,
    /// One stream for each position.
    pub position_keys: Vec<Key>,
}

impl Batch {
    /// Packs sequences. `framing` says how the encoder takes clips; a number of frames stands for
    /// Whisper's windows of that size.
    ///
    /// # Errors
    /// If a sequence's audio tokens and its clips do not fit together: a fault of the caller.
    pub fn pack(sequences: &[&Sequence], framing: impl Into<Framing>) -> Result<Self> {
        let mut batch = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            cu_seqlens: vec![0],
            token_keys: Vec::new(),
            audio: None,
            audio_rows: Vec::new(),
            target_rows: Vec::new(),
            target_ids: Vec::new(),
            target_weights: Vec::new(),
            target_sequences: Vec::new(),
        };
        let mut audio = Audio {
            framing: framing.into(),
            mels: 0,
            features: Vec::new(),
            windows: Vec::new(),
            positions: Vec::new(),
            attended: Vec::new(),
            clip_positions: Vec::new(),
            position_keys: Vec::new(),
        };

        for sequence in sequences {
            batch.push_clips(sequence, &mut audio)?;
            batch.push_targets(sequence)?;
            batch.push_tokens(sequence);
        }

        batch.audio = (!audio.windows.is_empty()).then_some(audio);
        Ok(batch)
    }

    /// Adds the clips of a sequence whose tokens come next.
    fn push_clips(&mut self, sequence: &Sequence, audio: &mut Audio) -> Result<()> {
        if sequence.audio.len() != sequence.features.len() {
            return Err(Error::bug(format!(
                "{} runs of audio tokens for {} clips",
                sequence.audio.len(),
                sequence.features.len()
            )));
        }

        let start = self.tokens.len();
        let clips = sequence.audio.iter().zip(&sequence.features);
        for (clip, (range, features)) in clips.enumerate() {
            let key = sequence.key.with(1 << 40).with(clip as u64);
            let positions = audio.push(features, key)?;
            if audio.framing.tokens_of(positions) != range.len() {
                return Err(Error::bug(format!(
                    "{} audio tokens for a clip of {} frames",
                    range.len(),
                    features.frames
                )));
            }
            self.audio_rows
                .extend(range.clone().map(|row| (start + row) as u32));
        }
        Ok(())
    }

    /// Adds the targets of a sequence whose tokens come next. The row before a token predicts it.
    fn push_targets(&mut self, sequence: &Sequence) -> Result<()> {
        let start = self.tokens.len();
        let index = self.cu_seqlens.len() - 1;
        for position in sequence.targets.iter().cloned().flatten() {
            let before = position
                .checked_sub(1)
                .ok_or_else(|| Error::bug("the first token of a sequence cannot be a target"))?;
            self.target_rows.push((start + before) as u32);
            self.target_ids.push(sequence.tokens[position]);
            self.target_weights.push(sequence.target_weight);
            self.target_sequences.push(index as u32);
        }
        Ok(())
    }

    fn push_tokens(&mut self, sequence: &Sequence) {
        let len = sequence.tokens.len();
        self.tokens.extend(&sequence.tokens);
        self.positions.extend(0..len as u32);
        self.token_keys
            .extend((0..len as u64).map(|position| sequence.key.with(position)));
        self.cu_seqlens.push(self.tokens.len());
    }

    /// The last row of each sequence: where generation starts.
    pub fn last_rows(&self) -> Vec<u32> {
        self.cu_seqlens[1..]
            .iter()
            .map(|&end| end as u32 - 1)
            .collect()
    }
}

impl Audio {
    /// Adds a clip; returns the number of its positions.
    fn push(&mut self, clip: &LogMel, key: Key) -> Result<usize> {
        if self.mels != clip.mels && !self.windows.is_empty() {
            return Err(Error::bug("clips of unequal mel bands in one batch"));
        }
        debug_assert_eq!(clip.values.len(), (clip.frames + clip.tail) * clip.mels);
        self.mels = clip.mels;
        self.features.extend(&clip.values);
        let framing = self.framing;
        let mut positions = 0;
        for start in (0..clip.frames).step_by(framing.window) {
            let frames = framing.window.min(clip.frames - start);
            let is_last = start + frames == clip.frames;
            let padding = match is_last {
                true => framing.padding(frames, clip.tail),
                false => 0,
            };
            self.windows.push(frames + padding);
            self.positions.push(framing.positions(frames));
            positions += framing.positions(frames);
        }
        if framing.is_filled() {
            let missing = clip.frames.next_multiple_of(framing.window) - clip.frames;
            let filled = self.features.len() + missing * clip.mels;
            self.features.resize(filled, 0.0);
        }
        let mut left = positions;
        while left > 0 {
            let attended = framing.attended().min(left);
            self.attended.push(attended);
            left -= attended;
        }
        self.clip_positions.push(positions);
        self.position_keys
            .extend((0..positions as u64).map(|position| key.with(position)));
        Ok(positions)
    }

    /// Rows of the convolutions' output that are positions, where the padding gives rows too;
    /// `None` where all of them are.
    pub fn position_rows(&self) -> Option<Vec<u32>> {
        let given = |frames: usize| self.framing.positions(frames);
        let are_all = |(&frames, &positions): (&usize, &usize)| given(frames) == positions;
        if self.windows.iter().zip(&self.positions).all(are_all) {
            return None;
        }
        let mut rows = Vec::new();
        let mut start = 0;
        for (&frames, &positions) in self.windows.iter().zip(&self.positions) {
            rows.extend((start..start + positions).map(|row| row as u32));
            start += given(frames);
        }
        Some(rows)
    }

    /// The clips one by one.
    pub fn clips(&self) -> Vec<Self> {
        let mut frame = 0;
        let mut window = 0;
        let mut stretch = 0;
        let mut position = 0;
        let mut clips = Vec::with_capacity(self.clip_positions.len());
        for &positions in &self.clip_positions {
            let mut end = window;
            let mut found = 0;
            while found < positions {
                found += self.positions[end];
                end += 1;
            }
            let frames: usize = self.windows[window..end].iter().sum();
            let stretches = stretch + positions.div_ceil(self.framing.attended());
            clips.push(Self {
                framing: self.framing,
                mels: self.mels,
                features: self.features[frame * self.mels..][..frames * self.mels].to_vec(),
                windows: self.windows[window..end].to_vec(),
                positions: self.positions[window..end].to_vec(),
                attended: self.attended[stretch..stretches].to_vec(),
                clip_positions: vec![positions],
                position_keys: self.position_keys[position..][..positions].to_vec(),
            });
            frame += frames;
            window = end;
            stretch = stretches;
            position += positions;
        }
        clips
    }

    /// Audio tokens of all clips.
    pub fn num_tokens(&self) -> usize {
        let of_clips = self.clip_positions.iter();
        of_clips
            .map(|&positions| self.framing.tokens_of(positions))
            .sum()
    }

    /// Starts of the stretches that attend to themselves alone, and the number of positions at the
    /// end.
    pub fn cu_positions(&self) -> Vec<usize> {
        std::iter::once(0)
            .chain(self.attended.iter().scan(0, |end, &len| {
                *end += len;
                Some(*end)
            }))
            .collect()
    }
}

/// Splits examples, in order, into micro-batches of at most `pack_tokens` tokens; a longer example
/// gets one of its own.
pub fn micro_batches(lengths: &[usize], pack_tokens: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (i, &len) in lengths.iter().enumerate() {
        match batches.last_mut() {
            Some(last) if tokens + len <= pack_tokens => {
                last.end = i + 1;
                tokens += len;
            }
            _ => {
                batches.push(i..i + 1);
                tokens = len;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(tokens: usize, targets: Range<usize>, clip_frames: &[usize]) -> Sequence {
        let mut at = 1;
        let audio = clip_frames
            .iter()
            .map(|&frames| {
                let positions: usize = (0..frames)
                    .step_by(200)
                    .map(|s| 200.min(frames - s).div_ceil(2))
                    .sum();
                let range = at..at + positions / 2;
                at = range.end + 1;
                range
            })
            .collect();
        let features = clip_frames
            .iter()
            .map(|&frames| {
                Arc::new(LogMel {
                    mels: 80,
                    frames,
                    tail: 0,
                    values: vec![frames as f32; frames * 80],
                })
            })
            .collect();
        Sequence {
            tokens: (0..tokens as u32).collect(),
            targets: vec![targets],
            audio,
            features,
            key: Key::new(1, "t"),
            target_weight: 0.5,
        }
    }

    #[test]
    fn a_packed_batch_looks_like_its_picture() {
        // | 0 1 2 3 |4 5 6 7|  | 0 ... 6 [7 8] 9 |, audio at 1..=2 of the first and 1..=2 of the second
        let a = sequence(8, 4..8, &[9]);
        let b = sequence(10, 7..9, &[8]);
        let batch = Batch::pack(&[&a, &b], 200).unwrap();
        assert_eq!(batch.cu_seqlens, [0, 8, 18]);
        assert_eq!(batch.positions[6..10], [6, 7, 0, 1]);
        assert_eq!(batch.audio_rows, [1, 2, 9, 10]);
        assert_eq!(batch.target_rows, [3, 4, 5, 6, 14, 15]);
        assert_eq!(batch.target_ids, [4, 5, 6, 7, 7, 8]);
        assert_eq!(batch.target_sequences, [0, 0, 0, 0, 1, 1]);
        let audio = batch.audio.unwrap();
        assert_eq!(
            (audio.windows.as_slice(), audio.positions.as_slice()),
            (&[9, 8][..], &[5, 4][..])
        );
        assert_eq!(audio.cu_positions(), [0, 5, 9]);
    }

    #[test]
    fn a_long_clip_is_heard_in_windows() {
        let batch = Batch::pack(&[&sequence(400, 390..400, &[401])], 200).unwrap();
        let audio = batch.audio.unwrap();
        assert_eq!(audio.windows, [200, 200, 1]);
        assert_eq!(audio.clip_positions, [201]);
        assert_eq!(batch.audio_rows.len(), 100);
    }

    #[test]
    fn padding_that_convolutions_see_gives_no_position() {
        let mut padded = sequence(8, 4..8, &[7]);
        padded.features = vec![Arc::new(LogMel {
            mels: 80,
            frames: 7,
            tail: 2,
            values: vec![0.0; 9 * 80],
        })];
        let whole = sequence(8, 4..8, &[8]);
        let audio = Batch::pack(&[&padded, &whole], 3000)
            .unwrap()
            .audio
            .unwrap();
        assert_eq!(
            (audio.windows.as_slice(), audio.positions.as_slice()),
            (&[9, 8][..], &[4, 4][..])
        );
        assert_eq!(audio.position_rows(), Some(vec![0, 1, 2, 3, 5, 6, 7, 8]));
        let audio = Batch::pack(&[&whole], 3000).unwrap().audio.unwrap();
        assert_eq!(audio.position_rows(), None);
    }

    #[test]
    fn a_batch_is_taken_apart_into_its_clips() {
        let a = sequence(400, 390..400, &[401]);
        let b = sequence(10, 7..9, &[8]);
        let of = |sequences: &[&Sequence]| Batch::pack(sequences, 200).unwrap().audio.unwrap();
        let clips = of(&[&a, &b]).clips();
        for (clip, alone) in clips.iter().zip([of(&[&a]), of(&[&b])]) {
            assert_eq!(format!("{clip:?}"), format!("{alone:?}"));
        }
        assert_eq!(clips.len(), 2);
    }

    #[test]
    fn filled_windows_give_positions_of_their_clip_alone() {
        // 130 frames in chunks of 50, each 7 positions; two chunks attend to each other.
        let framing = Framing {
            window: 50,
            reduction: Reduction::Eighth { chunks: 2 },
        };
        let mut long = sequence(30, 25..30, &[130]);
        long.audio[0].end = long.audio[0].start + framing.tokens(130);
        let mut short = sequence(8, 4..8, &[10]);
        short.audio[0].end = short.audio[0].start + framing.tokens(10);
        let audio = Batch::pack(&[&long, &short], framing)
            .unwrap()
            .audio
            .unwrap();
        assert_eq!(audio.windows, [50, 50, 50, 50]);
        assert_eq!(audio.positions, [7, 7, 4, 2]);
        assert_eq!(audio.clip_positions, [18, 2]);
        assert_eq!(audio.cu_positions(), [0, 14, 18, 20]);
        assert_eq!(audio.features.len(), 200 * 80);
        assert!(audio.features[..130 * 80].iter().all(|&x| x == 130.0));
        assert!(audio.features[130 * 80..150 * 80].iter().all(|&x| x == 0.0));
        let rows = audio.position_rows().unwrap();
        assert_eq!(
            rows[..18],
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
        );
        assert_eq!(rows[18..], [21, 22]);
        let alone = Batch::pack(&[&short], framing).unwrap().audio.unwrap();
        let of_short = audio.clips().remove(1);
        assert_eq!(
            (of_short.features, of_short.attended),
            (alone.features, vec![2])
        );
    }

    #[test]
    fn tokens_have_the_same_stream_whatever_they_are_packed_with() {
        let a = sequence(8, 4..8, &[9]);
        let b = sequence(10, 7..9, &[8]);
        let together = Batch::pack(&[&a, &b], 200).unwrap();
        let alone = Batch::pack(&[&b], 200).unwrap();
        assert_eq!(together.token_keys[8..], alone.token_keys[..]);
        assert_eq!(
            together.audio.unwrap().position_keys[5..],
            alone.audio.unwrap().position_keys[..]
        );
    }

    #[test]
    fn a_count_of_audio_tokens_that_does_not_fit_is_refused() {
        let mut wrong = sequence(8, 4..8, &[9]);
        wrong.audio[0].end += 1;
        assert!(Batch::pack(&[&wrong], 200).is_err());
    }

    #[test]
    fn micro_batches_hold_all_examples_in_order_under_the_cap() {
        assert_eq!(
            micro_batches(&[5, 5, 5, 20, 1, 9], 10),
            [0..2, 2..3, 3..4, 4..6]
        );
        assert!(micro_batches(&[], 10).is_empty());
    }
}

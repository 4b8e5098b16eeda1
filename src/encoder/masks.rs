//! Spans of frames that are masked, as a function of a key.

use crate::encoder::recipe::Masks;
use crate::seed::Key;

/// Whether each of `frames` frames of a clip is masked.
///
/// As in fairseq: a share of the frames divided by the length of a span, rounded up or down at
/// random, is the number of spans; their starts are drawn without replacement. At least one frame
/// of a clip is left.
pub fn draw(masks: Masks, frames: usize, key: Key) -> Vec<bool> {
    let mut masked = vec![false; frames];
    let length = masks.length.min(frames.saturating_sub(1));
    if masks.share == 0.0 || length == 0 {
        return masked;
    }
    let wanted =
        masks.share * frames as f64 / masks.length as f64 + key.with_name("round").uniform(0);
    let starts = frames - length + 1;
    let spans = (wanted as usize).max(masks.min).min(starts);
    let order = key.with_name("starts").permutation(starts);
    for &start in &order[..spans] {
        masked[start as usize..start as usize + length].fill(true);
    }
    if !masked.contains(&false) {
        masked[key.with_name("seen").below(0, frames)] = false;
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_the_expected_share() {
        let masks = Masks::default();
        let mut covered = 0.0;
        for clip in 0..200 {
            let masked = draw(masks, 500, Key::new(1, "masks").with(clip));
            covered += masked.iter().filter(|&&m| m).count() as f64 / 500.0 / 200.0;
            assert_eq!(masked, draw(masks, 500, Key::new(1, "masks").with(clip)));
        }
        // 40 of 491 starts without replacement, by binomial coefficients frame by frame: 0.5672.
        assert!((covered - 0.5672).abs() < 0.01, "{covered}");
    }

    #[test]
    fn short_clips_keep_a_frame() {
        for frames in 0..12 {
            let masked = draw(Masks::default(), frames, Key::new(1, "masks"));
            assert_eq!(masked.len(), frames);
            assert!(
                frames < 2 || (masked.contains(&true) && masked.contains(&false)),
                "{frames}"
            );
        }
        let none = Masks {
            share: 0.0,
            ..Masks::default()
        };
        assert!(!draw(none, 50, Key::new(1, "masks")).contains(&true));
    }
}

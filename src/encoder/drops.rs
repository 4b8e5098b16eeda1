//! Dropout of a training step, as a function of keys: streams of frames, and layers that are left
//! out.

use crate::error::Error;
use crate::error::Result;
use crate::nn::windows::HiddenDropout;
use crate::seed::Key;

/// Shares of a recipe that are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Share of the numbers of hidden states: `dropout`.
    pub hidden: f64,
    /// Share of the layers: `layer_drop`.
    pub layers: f64,
}

impl Shares {
    /// Refuses shares outside `[0, 1)`, by their key.
    ///
    /// # Errors
    /// The first of them.
    pub fn check(self) -> Result<()> {
        for (key, share) in [("dropout", self.hidden), ("layer_drop", self.layers)] {
            if !(0.0..1.0).contains(&share) {
                return Err(Error::input(format!("`{key}` is {share}"))
                    .hint("write a share from 0, which is off, to below 1"));
            }
        }
        Ok(())
    }

    /// Layers of `num_layers` that a step leaves out. All clips of the step leave out the same.
    pub fn skipped(self, num_layers: usize, step: Key) -> Vec<usize> {
        let key = step.with_name("layer drop");
        (0..num_layers)
            .filter(|&layer| key.uniform(layer as u64) < self.layers)
            .collect()
    }

    /// One stream for each frame of the clips of a pack, given each clip's key and its number of
    /// frames; none where nothing is dropped.
    pub fn streams(self, clips: impl Iterator<Item = (Key, usize)>) -> Vec<Key> {
        if self.hidden == 0.0 {
            return Vec::new();
        }
        let of_clip = |(key, frames): (Key, usize)| {
            let key = key.with_name("dropout");
            (0..frames as u64).map(move |frame| key.with(frame))
        };
        clips.flat_map(of_clip).collect()
    }

    /// Dropout of a pass over frames with these streams.
    pub fn over(self, streams: &[Key]) -> HiddenDropout<'_> {
        HiddenDropout {
            probability: self.hidden,
            positions: streams,
            layer: 0,
        }
    }
}

/// Whether a share is off, and left out of a stored recipe.
pub fn is_off(share: &f64) -> bool {
    *share == 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_left_out_at_their_share() {
        let shares = Shares {
            hidden: 0.0,
            layers: 0.1,
        };
        let key = |step: u64| Key::new(1, "t").with(step);
        let skipped: usize = (0..1000)
            .map(|step| shares.skipped(12, key(step)).len())
            .sum();
        // 12,000 draws: 1,200 on average, with a deviation of 33.
        assert!((1100..1300).contains(&skipped), "{skipped}");
        assert_eq!(shares.skipped(12, key(3)), shares.skipped(12, key(3)));
        let none = Shares {
            layers: 0.0,
            ..shares
        };
        assert!((0..100).all(|step| none.skipped(12, key(step)).is_empty()));
        assert!(none.streams([(key(0), 5)].into_iter()).is_empty());
    }
}

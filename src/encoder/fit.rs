//! Training frames that a target is fitted on: without quiet ones, and equally many of each corpus.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::encoder::clips::Item;
use crate::encoder::recipe::Fit;
use crate::error::Result;
use crate::featurise::samples_of;
use crate::models::hubert::config::Config;
use crate::seed::Key;

/// Share of a clip's frames that the level which quiet frames are compared with is above.
const LOUD: f64 = 0.9;

/// Frames that a target is fitted on.
pub struct Chosen {
    /// Whether each frame of each training clip is used.
    used: Vec<Vec<bool>>,
    /// Whether it is quiet.
    quiet: Vec<Vec<bool>>,
}

impl Chosen {
    /// Chooses frames of training clips, by settings; `groups` has the value of the balanced field
    /// of each clip.
    ///
    /// # Errors
    /// Audio that cannot be read.
    pub fn new(
        fit: &Fit,
        groups: Option<&[String]>,
        items: &[Item],
        config: &Config,
        key: Key,
    ) -> Result<Self> {
        let quiet: Vec<Vec<bool>> = match fit.quiet_db {
            Some(quiet_db) => items
                .par_iter()
                .map(|item| quiet_frames(item, config, quiet_db))
                .collect::<Result<_>>()?,
            None => items
                .iter()
                .map(|item| vec![false; config.num_frames(item.samples)])
                .collect(),
        };
        let used = used_frames(&quiet, groups, key);
        Ok(Self { used, quiet })
    }

    /// The vectors of a clip's frames that are used.
    ///
    /// # Shapes
    /// `values`: `[frames, width]` -> `[used frames, width]`
    pub fn of(&self, clip: usize, values: &[f32], width: usize) -> Vec<f32> {
        let mut used = Vec::new();
        for (vector, &is_used) in values.chunks(width).zip(&self.used[clip]) {
            if is_used {
                used.extend_from_slice(vector);
            }
        }
        used
    }

    /// Number of frames that are used.
    pub fn num_used(&self) -> usize {
        self.used.iter().flatten().filter(|&&used| used).count()
    }

    /// Share of all frames that are quiet, and of the codes of which most frames are; `codes` has
    /// those of each training clip.
    pub fn quiet_shares(&self, codes: &[Vec<u32>]) -> (f64, f64) {
        let mut counts: BTreeMap<u32, [usize; 2]> = BTreeMap::new();
        let mut num_quiet = 0;
        let mut num_frames = 0;
        for (codes, quiet) in codes.iter().zip(&self.quiet) {
            for (&code, &is_quiet) in codes.iter().zip(quiet) {
                counts.entry(code).or_default()[usize::from(is_quiet)] += 1;
                num_quiet += usize::from(is_quiet);
                num_frames += 1;
            }
        }
        let of_quiet = counts.values().filter(|[loud, quiet]| quiet > loud).count();
        (
            num_quiet as f64 / num_frames.max(1) as f64,
            of_quiet as f64 / counts.len().max(1) as f64,
        )
    }
}

/// Whether each frame of a clip is quiet.
fn quiet_frames(item: &Item, config: &Config, quiet_db: f64) -> Result<Vec<bool>> {
    let samples = samples_of(&item.clip).map_err(|e| e.at(item.place()))?;
    let levels: Vec<f64> = (0..config.num_frames(samples.len()))
        .map(|frame| {
            let first = frame * config.stride();
            level(&samples[first..(first + config.field()).min(samples.len())])
        })
        .collect();
    Ok(quieter(&levels, quiet_db))
}

/// Level of samples in dB: ten times the logarithm of their mean square.
fn level(samples: &[f32]) -> f64 {
    let squares: f64 = samples.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    10.0 * (squares / samples.len().max(1) as f64 + 1e-10).log10()
}

/// Whether each level is more than `quiet_db` below the level that [`LOUD`] of them do not exceed.
fn quieter(levels: &[f64], quiet_db: f64) -> Vec<bool> {
    let mut sorted = levels.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = (LOUD * levels.len() as f64) as usize;
    let Some(loud) = sorted.get(place) else {
        return vec![false; levels.len()];
    };
    levels
        .iter()
        .map(|level| level + quiet_db < *loud)
        .collect()
}

/// Whether each frame is used: those that are not quiet, and with groups as many of each group, by
/// chance, as the smallest has.
fn used_frames(quiet: &[Vec<bool>], groups: Option<&[String]>, key: Key) -> Vec<Vec<bool>> {
    let Some(groups) = groups else {
        return quiet
            .iter()
            .map(|clip| clip.iter().map(|&is_quiet| !is_quiet).collect())
            .collect();
    };

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (clip, group) in quiet.iter().zip(groups) {
        let frames = clip.iter().filter(|&&is_quiet| !is_quiet).count();
        *counts.entry(group).or_default() += frames;
    }
    let least = counts.values().copied().min().unwrap_or(0);

    let mut used = Vec::with_capacity(quiet.len());
    for (place, (clip, group)) in quiet.iter().zip(groups).enumerate() {
        let share = least as f64 / counts[group.as_str()].max(1) as f64;
        let of_clip = key.with(place as u64);
        let of_frames = clip
            .iter()
            .enumerate()
            .map(|(frame, &is_quiet)| !is_quiet && of_clip.uniform(frame as u64) < share);
        used.push(of_frames.collect());
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_frames_are_those_far_below_the_loud_ones() {
        // A full-scale square wave has 0 dB, one of 0.1 has -20 dB, silence -100 dB.
        let levels = [1.0f32, 0.1, 0.0].map(|x| level(&[x, -x, x, -x]));
        assert!((levels[0]).abs() < 1e-6 && (levels[1] + 20.0).abs() < 1e-6);
        assert!((levels[2] + 100.0).abs() < 1e-6);
        // Of ten sorted levels the place 9 is the loudest: 0 dB.
        let levels = [
            0.0, -5.0, -5.0, -5.0, -5.0, -5.0, -29.0, -31.0, -40.0, -90.0,
        ];
        let found = quieter(&levels, 30.0);
        let expected: Vec<bool> = levels.iter().map(|&level| level < -30.0).collect();
        assert_eq!(found, expected);
        assert_eq!(quieter(&[], 30.0), Vec::<bool>::new());
    }

    #[test]
    fn groups_are_used_alike() {
        // 100 frames of `a`, of which a half is quiet, and 1,000 of `b`.
        let a: Vec<bool> = (0..100).map(|frame| frame % 2 == 0).collect();
        let quiet = vec![a, vec![false; 1000]];
        let groups = ["a".to_owned(), "b".to_owned()];
        let count = |clip: &[bool]| clip.iter().filter(|&&used| used).count();

        let used = used_frames(&quiet, Some(&groups), Key::new(1, "fit"));
        assert!(!used[0][0] && used[0][1]);
        assert_eq!(count(&used[0]), 50);
        // 50 expected; the standard deviation of a draw of 1,000 is 7.
        assert!((20..80).contains(&count(&used[1])), "{}", count(&used[1]));

        let all = used_frames(&quiet, None, Key::new(1, "fit"));
        assert_eq!((count(&all[0]), count(&all[1])), (50, 1000));
    }

    #[test]
    fn codes_of_quiet_frames_are_counted() {
        let chosen = Chosen {
            used: Vec::new(),
            quiet: vec![vec![true, true, false, false], vec![false]],
        };
        // Code 7 has two quiet frames of two, code 8 none of two, code 9 none of one.
        let shares = chosen.quiet_shares(&[vec![7, 7, 8, 8], vec![9]]);
        assert_eq!(shares, (2.0 / 5.0, 1.0 / 3.0));
    }
}

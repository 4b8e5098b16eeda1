//! Voices, and their assignment to splits and rows.

use crate::build::assign::Prepared;
use crate::build::settings::speak::Engine;
use crate::build::settings::speak::Settings;
use crate::build::settings::speak::Voice;
use crate::seed::Key;

/// Share of voices for dev, and for test.
const HELD_OUT: f64 = 0.15;
/// Variants of espeak-ng's voices that differ in the vocal tract: four men, four women.
const VARIANTS: [&str; 8] = ["m1", "f1", "m3", "f2", "m7", "f3", "m4", "f4"];

/// The voices of a recipe, rate and pitch filled in.
pub(crate) fn list(settings: &Settings, language: &str) -> Vec<Voice> {
    let named = |name: String| Voice {
        voice: name,
        rate: None,
        pitch: None,
    };
    let mut list = settings.voices.clone();
    if list.is_empty() {
        let primary = language.split('-').next().unwrap_or_default();
        list = match settings.engine {
            Engine::EspeakNg => VARIANTS
                .iter()
                .map(|variant| named(format!("{primary}+{variant}")))
                .collect(),
            _ => vec![named("default".to_owned())],
        };
    }
    for voice in &mut list {
        voice.rate = voice.rate.or(settings.rate);
        voice.pitch = voice.pitch.or(settings.pitch);
    }
    list
}

/// Voices shared out among the splits.
pub(crate) struct Voices([Vec<Voice>; 3]);

impl Voices {
    /// Gives each split with rows its own voices, drawn by the seed. With fewer voices than splits,
    /// all splits share all voices.
    pub(crate) fn shared_out(list: &[Voice], prepared: &Prepared, seed: u64) -> Self {
        let mut has_rows = [false; 3];
        for row in prepared.rows.iter().filter(|row| row.rejected.is_none()) {
            has_rows[usize::from(row.split)] = true;
        }
        let num_splits = has_rows.iter().filter(|has| **has).count();
        if list.len() < num_splits {
            return Self(std::array::from_fn(|_| list.to_vec()));
        }
        let order = Key::new(seed, "build voices").permutation(list.len());
        let mut rest: Vec<Voice> = order.iter().map(|i| list[*i as usize].clone()).collect();
        let held_out = ((HELD_OUT * list.len() as f64).round() as usize).max(1);
        let mut shared: [Vec<Voice>; 3] = Default::default();
        let mut left = num_splits;
        for split in [2, 1, 0] {
            if !has_rows[split] {
                continue;
            }
            left -= 1;
            let count = if left == 0 {
                rest.len()
            } else {
                held_out.min(rest.len() - left)
            };
            shared[split] = rest.drain(..count).collect();
        }
        Self(shared)
    }

    /// The voice of a row: the voices of a split take turns.
    pub(crate) fn of(&self, split: u8, place: u32) -> &Voice {
        let voices = &self.0[usize::from(split)];
        &voices[place as usize % voices.len()]
    }

    /// Returns whether a voice occurs in two splits.
    #[cfg(test)]
    fn overlap(&self) -> bool {
        let [train, dev, test] = &self.0;
        train
            .iter()
            .any(|voice| dev.contains(voice) || test.contains(voice))
            || dev.iter().any(|voice| test.contains(voice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::assign::Row;

    fn prepared(splits: &[u8]) -> Prepared {
        let rows = splits.iter().map(|split| Row {
            offset: 0,
            len: 0,
            rejected: None,
            split: *split,
            place: 0,
            group: String::new(),
        });
        Prepared {
            rows: rows.collect(),
        }
    }

    fn voices(num: usize) -> Vec<Voice> {
        (0..num)
            .map(|i| Voice {
                voice: format!("v{i}"),
                rate: None,
                pitch: None,
            })
            .collect()
    }

    #[test]
    fn splits_have_voices_of_their_own_and_use_them_alike() {
        for num in 3..30 {
            let shared = Voices::shared_out(&voices(num), &prepared(&[0, 1, 2]), 7);
            assert!(!shared.overlap());
            assert_eq!(shared.0.iter().map(Vec::len).sum::<usize>(), num);
            assert!(shared.0.iter().all(|voices| !voices.is_empty()));
            assert!(shared.0[0].len() >= shared.0[1].len());
        }
        let shared = Voices::shared_out(&voices(8), &prepared(&[0, 1, 2]), 7);
        let mut turns = std::collections::BTreeMap::new();
        for place in 0..60 {
            *turns.entry(shared.of(0, place).name()).or_insert(0) += 1;
        }
        assert_eq!(turns.into_values().collect::<Vec<_>>(), [10; 6]);
    }

    #[test]
    fn few_voices_are_shared() {
        let shared = Voices::shared_out(&voices(2), &prepared(&[0, 1, 2]), 7);
        assert!(shared.overlap());
        // With two splits two voices are enough.
        let shared = Voices::shared_out(&voices(2), &prepared(&[0, 2]), 7);
        assert!(!shared.overlap());
    }
}

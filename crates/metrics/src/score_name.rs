//! The name of a score, taken apart: `<set>.<metric>@<variant>`.

/// Parts of a score's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreName<'a> {
    /// Name of the set; `None` for scores over all sets.
    pub set: Option<&'a str>,
    /// Name of the metric.
    pub metric: &'a str,
    /// Normaliser of the texts, or how strictly labels were read, where the score says one.
    pub variant: Option<&'a str>,
}

impl<'a> ScoreName<'a> {
    /// Takes a name apart. A set may have dots in its own name.
    pub fn parse(full: &'a str) -> Self {
        let (stem, variant) = match full.split_once('@') {
            Some((stem, variant)) => (stem, Some(variant)),
            None => (full, None),
        };
        let (set, metric) = match stem.rsplit_once('.') {
            Some((set, metric)) => (Some(set), metric),
            None => (None, stem),
        };
        Self {
            set,
            metric,
            variant,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name = ScoreName::parse("dev.words.wer@arabic-leaderboard");
        assert_eq!(
            (name.set, name.metric, name.variant),
            (Some("dev.words"), "wer", Some("arabic-leaderboard"))
        );
        assert_eq!(ScoreName::parse("mean").set, None);
    }
}

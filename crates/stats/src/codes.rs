//! Codes of frames against labels of frames: purity, mutual information, and how many codes are
//! used.
//!
//! Source: Hsu et al., *HuBERT*, 2021, section V-A.

use std::collections::BTreeMap;

/// Counts of codes, and of codes with labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codes {
    codes: BTreeMap<u32, f64>,
    joint: BTreeMap<(u32, String), f64>,
}

/// Agreement of codes with labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Share of frames whose label is the commonest of their code.
    pub purity: f64,
    /// Share of frames whose code is the commonest of their label.
    pub cluster_purity: f64,
    /// Share of the labels' entropy that codes explain (PNMI).
    pub pnmi: f64,
}

impl Codes {
    /// Adds a frame, with its label if it has one.
    pub fn add(&mut self, code: u32, label: Option<&str>) {
        *self.codes.entry(code).or_default() += 1.0;
        if let Some(label) = label {
            *self.joint.entry((code, label.to_owned())).or_default() += 1.0;
        }
    }

    /// Number of codes that some frame has.
    pub fn num_active(&self) -> usize {
        self.codes.len()
    }

    /// e to the power of the entropy of the codes: the number of equally frequent codes with the
    /// same entropy.
    pub fn perplexity(&self) -> f64 {
        entropy(self.codes.values().copied()).exp()
    }

    /// Agreement with the labels; `None` if no frame has one.
    pub fn agreement(&self) -> Option<Agreement> {
        let total: f64 = self.joint.values().sum();
        if total == 0.0 {
            return None;
        }
        let mut by_code = BTreeMap::new();
        let mut by_label = BTreeMap::new();
        let mut most_of_code = BTreeMap::new();
        let mut most_of_label = BTreeMap::new();
        for ((code, label), &count) in &self.joint {
            *by_code.entry(code).or_insert(0.0) += count;
            *by_label.entry(label).or_insert(0.0) += count;
            let most = most_of_code.entry(code).or_insert(0.0f64);
            *most = most.max(count);
            let most = most_of_label.entry(label).or_insert(0.0f64);
            *most = most.max(count);
        }
        let of_labels = entropy(by_label.values().copied());
        let mutual =
            entropy(by_code.values().copied()) + of_labels - entropy(self.joint.values().copied());
        Some(Agreement {
            purity: most_of_code.values().sum::<f64>() / total,
            cluster_purity: most_of_label.values().sum::<f64>() / total,
            pnmi: if of_labels > 0.0 {
                mutual / of_labels
            } else {
                0.0
            },
        })
    }
}

/// Entropy of counts, in nats.
fn entropy(counts: impl Iterator<Item = f64> + Clone) -> f64 {
    let total: f64 = counts.clone().sum();
    counts
        .filter(|count| *count > 0.0)
        .map(|count| -(count / total) * (count / total).ln())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_by_hand() {
        let mut codes = Codes::default();
        for (code, label) in [(0, "a"), (0, "a"), (0, "b"), (1, "b")] {
            codes.add(code, Some(label));
        }
        let found = codes.agreement().unwrap();
        // Labels are even, so their entropy is ln 2; codes are 3 to 1; the joint counts are 2,
        // 1, 1.
        let of_codes = -(0.75f64.ln() * 0.75 + 0.25f64.ln() * 0.25);
        let joint = 1.5 * 2f64.ln();
        let pnmi = (of_codes + 2f64.ln() - joint) / 2f64.ln();
        assert_eq!((found.purity, found.cluster_purity), (0.75, 0.75));
        assert!((found.pnmi - pnmi).abs() < 1e-12);
        assert_eq!(codes.num_active(), 2);
        assert!((codes.perplexity() - of_codes.exp()).abs() < 1e-12);
    }

    #[test]
    fn perfect_and_absent_labels() {
        let mut codes = Codes::default();
        codes.add(3, None);
        assert_eq!((codes.agreement(), codes.perplexity()), (None, 1.0));
        for (code, label) in [(0, "a"), (1, "b"), (2, "c")] {
            codes.add(code, Some(label));
        }
        let found = codes.agreement().unwrap();
        assert!((found.purity, found.pnmi) == (1.0, 1.0) || (found.pnmi - 1.0).abs() < 1e-12);
    }
}

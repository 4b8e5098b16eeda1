//! MinHash: 128 least hashes that stand for the shingles of a text, the similarity of two texts by
//! them, and the bands by which like texts are found.
//!
//! There are two ways to draw the hashes. [`Signature::by_permutations`] hashes every shingle 128
//! times (Broder 1997); it estimates a similarity with the least error. [`Signature::by_bins`]
//! hashes every shingle once (one permutation hashing after Li, Owen and Zhang 2012 with the
//! densification of Shrivastava 2017); it is for many texts whose pairs are compared exactly
//! afterwards.

use maqam_base::seed::mix;

/// Hashes of a signature.
pub const NUM_HASHES: usize = 128;

/// Words of the runs that texts must not share with a test set, as in NeMo's decontamination and
/// GPT-3's (there 13).
pub const RUN_WORDS: usize = 8;

/// MinHash signature of the shingles of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature([u32; NUM_HASHES]);

impl Signature {
    /// The signature of hashed shingles by as many permutations as it has hashes.
    pub fn by_permutations(shingles: impl IntoIterator<Item = u64>) -> Self {
        let mut minima = [u32::MAX; NUM_HASHES];
        for shingle in shingles {
            for (i, least) in minima.iter_mut().enumerate() {
                let key = (i as u64 + 1).wrapping_mul(GOLDEN);
                *least = (*least).min((mix(shingle ^ key) >> 32) as u32);
            }
        }
        Self(minima)
    }

    /// The signature of hashed shingles by one permutation: the least hash of each of
    /// [`NUM_HASHES`] classes of shingles, classes without a shingle filled from others; `None`
    /// without shingles.
    pub fn by_bins(shingles: &[u64]) -> Option<Self> {
        const EMPTY: u64 = u64::MAX;
        if shingles.is_empty() {
            return None;
        }
        let mut least = [EMPTY; NUM_HASHES];
        for &hash in shingles {
            let bin = (hash >> 32) as usize % NUM_HASHES;
            least[bin] = least[bin].min(hash & 0xffff_ffff);
        }

        // An empty bin takes the value of one that is drawn for it, by the same draws in every
        // text: then two texts agree in it as often as in any other.
        let mut filled = [0; NUM_HASHES];
        for (bin, filled) in filled.iter_mut().enumerate() {
            let mut from = bin;
            let mut attempt = 0;
            while least[from] == EMPTY {
                attempt += 1;
                from = mixed((bin as u64) << 32 | attempt) as usize % NUM_HASHES;
            }
            *filled = least[from] as u32;
        }
        Some(Self(filled))
    }

    /// Estimated Jaccard similarity; its standard error is at most 0.044.
    pub fn similarity(&self, other: &Self) -> f64 {
        let equal = self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count();
        equal as f64 / NUM_HASHES as f64
    }

    /// The hashes, band by band. Texts that agree in a whole band are worth comparing.
    pub fn bands(&self, hashes_per_band: usize) -> impl Iterator<Item = &[u32]> {
        self.0.chunks_exact(hashes_per_band)
    }
}

/// An odd number close to 2 to the power 64 over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64, after one step of its counter so that 0 is not mapped to 0.
pub fn mixed(z: u64) -> u64 {
    mix(z.wrapping_add(GOLDEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_estimate_the_share_of_equal_shingles() {
        // 600 and 600 shingles of which 400 are shared: 400 of 800.
        let shingles = |from: u64| (from..from + 600).map(mixed).collect::<Vec<u64>>();
        let a = shingles(0);
        let b = shingles(200);
        let permuted = |of: &[u64]| Signature::by_permutations(of.iter().copied());
        let found = [
            permuted(&a).similarity(&permuted(&b)),
            Signature::by_bins(&a)
                .unwrap()
                .similarity(&Signature::by_bins(&b).unwrap()),
        ];
        // Three standard errors of 128 hashes.
        assert!(
            found.iter().all(|found| (found - 0.5).abs() < 0.133),
            "{found:?}"
        );
        assert_eq!(Signature::by_bins(&[]), None);
    }
}

//! Uniform noise on embeddings whose values are a hash of where they stand, so that it is never
//! stored and never depends on the packing.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::new_rows;
use crate::ops::device::place_like;
use crate::ops::rows::add_to;
use maqam_base::seed::Key;

/// Stream of the noise among those of a token: above all sites of dropout.
const SITE: u64 = 1 << 48;

/// Noise of NEFTune (Jain et al. 2023, arXiv 2310.05914): uniform in `[-s, s)` with
/// `s = alpha / sqrt(L d)`, for a sequence of L tokens and embeddings of d numbers.
#[derive(Clone, Copy, Debug)]
pub struct Noise<'a> {
    /// Scale of the noise.
    pub alpha: f64,
    /// One key for every token: step, example and position.
    pub tokens: &'a [Key],
    /// Starts of the sequences, and the number of tokens at the end.
    pub cu_seqlens: &'a [usize],
}

impl Noise<'_> {
    /// `x += noise`, in place.
    ///
    /// # Shapes
    /// `x`: `[tokens, dim]`
    pub fn add_to(&self, x: &Tensor) -> Result<()> {
        let (tokens, dim) = x.dims2()?;
        if self.tokens.len() != tokens || self.cu_seqlens.last() != Some(&tokens) {
            candle_core::bail!(
                "noise has keys for {} tokens and sequences up to {:?}, the tensor {tokens} tokens",
                self.tokens.len(),
                self.cu_seqlens.last()
            );
        }
        let noise = place_like(&self.values(dim), (tokens, dim), x)?;
        add_to(x, &noise)
    }

    /// The noise, `[tokens, dim]`.
    fn values(&self, dim: usize) -> Vec<f32> {
        let mut scales = Vec::with_capacity(self.tokens.len());
        for bounds in self.cu_seqlens.windows(2) {
            let len = bounds[1] - bounds[0];
            let scale = self.alpha / ((len * dim) as f64).sqrt();
            scales.extend(std::iter::repeat_n(scale, len));
        }
        new_rows(self.tokens.len(), dim, |row, out: &mut [f32]| {
            let key = self.tokens[row].with(SITE);
            for (place, value) in out.iter_mut().enumerate() {
                let uniform = 2.0 * key.uniform(place as u64) - 1.0;
                *value = (uniform * scales[row]) as f32;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use candle_core::Device;

    use super::*;

    fn keys(example: u64, tokens: usize) -> Vec<Key> {
        let key = Key::new(9, "noise").with(example);
        (0..tokens as u64).map(|token| key.with(token)).collect()
    }

    #[test]
    fn it_is_uniform_with_the_papers_scale() {
        // Sequences of 4 and 64 tokens: s is alpha / sqrt(L d).
        let dim = 50;
        let tokens = [keys(0, 4), keys(1, 64)].concat();
        let noise = Noise {
            alpha: 5.0,
            tokens: &tokens,
            cu_seqlens: &[0, 4, 68],
        };
        let values = noise.values(dim);
        for (range, len) in [(0..4 * dim, 4.0f64), (4 * dim..68 * dim, 64.0)] {
            let scale = 5.0 / (len * dim as f64).sqrt();
            let mut shares: Vec<f64> = values[range]
                .iter()
                .map(|&x| (f64::from(x) / scale + 1.0) / 2.0)
                .collect();
            shares.sort_by(f64::total_cmp);
            assert!(shares[0] >= 0.0 && shares[shares.len() - 1] <= 1.0);
            // Kolmogorov and Smirnov: 1.63 / sqrt(n) is the bar at the level 0.01.
            let n = shares.len() as f64;
            let distance = shares
                .iter()
                .enumerate()
                .map(|(i, share)| {
                    (share - i as f64 / n)
                        .abs()
                        .max((share - (i + 1) as f64 / n).abs())
                })
                .fold(0.0, f64::max);
            assert!(distance < 1.63 / n.sqrt(), "{distance} of {n}");
        }
    }

    #[test]
    fn it_does_not_depend_on_the_packing() {
        let dim = 7;
        let both = [keys(0, 3), keys(1, 5)].concat();
        let together = Noise {
            alpha: 1.0,
            tokens: &both,
            cu_seqlens: &[0, 3, 8],
        };
        let alone = Noise {
            alpha: 1.0,
            tokens: &both[3..],
            cu_seqlens: &[0, 5],
        };
        assert_eq!(together.values(dim)[3 * dim..], alone.values(dim));
        let other = Noise {
            tokens: &keys(2, 5),
            ..alone
        };
        assert_ne!(other.values(dim), alone.values(dim));

        let ones = Tensor::ones((5, dim), DType::F64, &Device::Cpu).unwrap();
        alone.add_to(&ones).unwrap();
        let sums = ones.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (sum, noise) in sums.iter().zip(alone.values(dim)) {
            assert_eq!(*sum, 1.0 + f64::from(noise));
        }
        assert!(together.add_to(&ones).is_err());
    }
}

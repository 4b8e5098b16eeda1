//! Randomness as a counter hash: what is drawn depends on what it is for and where it stands, never
//! on what was drawn before.
//!
//! A [`Key`] names a stream (seed, purpose, step, row ...); a position in the stream gives a
//! number. The same numbers come whatever the packing, the number of threads, the save policy or
//! the moment of resuming.

use std::convert::Infallible;

use rand::TryRng;

/// A named stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The stream of a run's `seed` for one `purpose`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(mix(seed)).with_name(purpose)
    }

    /// The stream for one more name.
    #[must_use]
    pub fn with_name(self, name: &str) -> Self {
        name.bytes()
            .fold(self, |key, byte| key.with(u64::from(byte)))
    }

    /// The stream for one more coordinate (a step, an epoch, a row).
    #[must_use]
    pub fn with(self, coordinate: u64) -> Self {
        Self(mix(
            self.0 ^ mix(coordinate.wrapping_add(0x9e37_79b9_7f4a_7c15))
        ))
    }

    /// The stream's name as the one number that its bits are made of, for kernels that make them
    /// elsewhere.
    pub fn state(self) -> u64 {
        self.0
    }

    /// 64 random bits at a position of the stream.
    #[inline]
    pub fn bits(self, position: u64) -> u64 {
        mix(self
            .0
            .wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number uniform in `[0, 1)`.
    #[inline]
    pub fn uniform(self, position: u64) -> f64 {
        (self.bits(position) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A whole number uniform in `0..end`; the bias is below `end / 2^64`.
    pub fn below(self, position: u64, end: usize) -> usize {
        ((u128::from(self.bits(position)) * end as u128) >> 64) as usize
    }

    /// A permutation of `0..len`: numbers sorted by their hash.
    pub fn permutation(self, len: usize) -> Vec<u32> {
        let mut order: Vec<(u64, u32)> = (0..len as u32)
            .map(|i| (self.bits(u64::from(i)), i))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, i)| i).collect()
    }

    /// The stream as a generator for `rand`'s distributions, from its first position.
    pub fn generator(self) -> Generator {
        Generator {
            key: self,
            position: 0,
        }
    }
}

/// A [`Key`] read one position after the other.
pub struct Generator {
    key: Key,
    position: u64,
}

impl TryRng for Generator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.try_next_u64()? >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let bits = self.key.bits(self.position);
        self.position += 1;
        Ok(bits)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
        Ok(())
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014; constants of Stafford's variant 13).
#[inline]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn a_position_gives_the_same_number_whenever_it_is_asked() {
        let key = Key::new(7, "dropout").with(3);
        let forwards: Vec<u64> = (0..100).map(|i| key.bits(i)).collect();
        let backwards: Vec<u64> = (0..100).rev().map(|i| key.bits(i)).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
        let mut generator = key.generator();
        assert!(forwards.iter().all(|&bits| generator.next_u64() == bits));
    }

    #[test]
    fn streams_of_different_names_differ() {
        let keys = [
            Key::new(7, "a"),
            Key::new(8, "a"),
            Key::new(7, "b"),
            Key::new(7, "a").with(0),
            Key::new(7, "a").with(1),
            Key::new(7, "a").with(0).with(0),
        ];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[..i] {
                assert!((0..64).all(|p| a.bits(p) != b.bits(p)));
            }
        }
    }

    #[test]
    fn uniform_numbers_have_the_moments_of_the_uniform_distribution() {
        let key = Key::new(1, "moments");
        let n = 200_000;
        let mut sum = 0.0;
        let mut square = 0.0;
        let mut lag = 0.0;
        for i in 0..n {
            let u = key.uniform(i) - 0.5;
            sum += u;
            square += u * u;
            lag += u * (key.uniform(i + 1) - 0.5);
        }
        let n = n as f64;
        assert!(
            (sum / n).abs() < 0.003
                && (square / n - 1.0 / 12.0).abs() < 0.001
                && (lag / n).abs() < 0.001
        );
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        let mut order = Key::new(3, "order").permutation(1000);
        assert_ne!(order[..20], (0..20).collect::<Vec<u32>>()[..]);
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
    }
}

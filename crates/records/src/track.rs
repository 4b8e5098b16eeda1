//! A number followed over a run of any length in a fixed amount of memory.

/// Most bins of a track; past it neighbouring bins become one.
const MOST_BINS: usize = 2048;
/// A smoothed curve averages over about this part of a run.
const WINDOWS: u64 = 25;

/// What the steps of a bin add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bin {
    count: f64,
    steps: f64,
    weight: f64,
    weighted: f64,
    sum: f64,
    squares: f64,
}

impl Bin {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.steps += other.steps;
        self.weight += other.weight;
        self.weighted += other.weighted;
        self.sum += other.sum;
        self.squares += other.squares;
    }
}

/// A number by step.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// Steps of a bin.
    width: u64,
    bins: Vec<Bin>,
}

impl Default for Track {
    fn default() -> Self {
        Self {
            width: 1,
            bins: Vec::new(),
        }
    }
}

impl Track {
    /// Adds the number of a step, from 1, as heavy as `weight`; what is not finite is left out.
    pub fn add(&mut self, step: u64, value: f64, weight: f64) {
        if !(value.is_finite() && weight.is_finite() && weight > 0.0) {
            return;
        }
        while step.saturating_sub(1) / self.width >= MOST_BINS as u64 {
            self.halve();
        }
        let place = (step.saturating_sub(1) / self.width) as usize;
        if place >= self.bins.len() {
            self.bins.resize(place + 1, Bin::default());
        }
        let one = Bin {
            count: 1.0,
            steps: step as f64,
            weight,
            weighted: weight * value,
            sum: value,
            squares: value * value,
        };
        self.bins[place].add(&one);
    }

    fn halve(&mut self) {
        self.width *= 2;
        let joined = self.bins.chunks(2).map(|pair| {
            let mut bin = pair[0];
            pair.iter().skip(1).for_each(|other| bin.add(other));
            bin
        });
        self.bins = joined.collect();
    }

    /// Number of numbers.
    pub fn count(&self) -> f64 {
        self.bins.iter().map(|bin| bin.count).sum()
    }

    /// Weighted mean of all numbers; `None` without any.
    pub fn mean(&self) -> Option<f64> {
        let mut all = Bin::default();
        self.bins.iter().for_each(|bin| all.add(bin));
        (all.weight > 0.0).then_some(all.weighted / all.weight)
    }

    /// The numbers by step; where several steps share a bin, their weighted mean.
    pub fn points(&self) -> Vec<(f64, f64)> {
        self.bins
            .iter()
            .filter(|bin| bin.count > 0.0)
            .map(|bin| (bin.steps / bin.count, bin.weighted / bin.weight))
            .collect()
    }

    /// The weighted mean over a window of about `window` steps around each step.
    pub fn smooth(&self, window: u64) -> Vec<(f64, f64)> {
        self.windows(window)
            .filter(|(_, around)| around.weight > 0.0)
            .map(|(step, around)| (step, around.weighted / around.weight))
            .collect()
    }

    /// The volatility over such windows: standard deviation over mean of the numbers in each. A
    /// window with fewer than three has none.
    pub fn volatility(&self, window: u64) -> Vec<(f64, f64)> {
        let of_window = |(step, around): (f64, Bin)| {
            let mean = around.sum / around.count;
            let variance = (around.squares / around.count - mean * mean).max(0.0);
            let volatility = variance.sqrt() / mean;
            (around.count >= 3.0 && volatility.is_finite()).then_some((step, volatility))
        };
        self.windows(window).filter_map(of_window).collect()
    }

    /// For each bin that holds something its mean step, and the sum of the bins around it.
    fn windows(&self, window: u64) -> impl Iterator<Item = (f64, Bin)> {
        let half = (window / self.width / 2) as usize;
        let around = move |i: usize| {
            let mut sum = Bin::default();
            self.bins[i.saturating_sub(half)..(i + half + 1).min(self.bins.len())]
                .iter()
                .for_each(|bin| sum.add(bin));
            sum
        };
        let held = self
            .bins
            .iter()
            .enumerate()
            .filter(|(_, bin)| bin.count > 0.0);
        held.map(move |(i, bin)| (bin.steps / bin.count, around(i)))
    }
}

/// The window that curves of a run of this many steps are smoothed over: 1, 2 or 5 times a power of
/// ten, a twenty-fifth of the run or less.
pub fn window(steps: u64) -> u64 {
    let most = (steps / WINDOWS).max(1);
    let power = 10u64.pow(most.ilog10());
    [5, 2, 1]
        .into_iter()
        .map(|multiple| multiple * power)
        .find(|window| *window <= most)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_means_in_few_bins() {
        let mut track = Track::default();
        for step in 1..=1_000_000u64 {
            track.add(
                step,
                if step > 500_000 { 2.0 } else { 1.0 },
                if step % 2 == 0 { 3.0 } else { 1.0 },
            );
        }
        assert!(track.bins.len() <= MOST_BINS && track.count() == 1e6);
        assert!((track.mean().unwrap() - 1.5).abs() < 1e-12);
        let points = track.points();
        assert!(
            points.first().unwrap().1 == 1.0
                && points.last().unwrap().1 == 2.0
                && points.windows(2).all(|pair| pair[0].0 < pair[1].0)
        );
    }

    #[test]
    fn a_window_is_a_weighted_mean_and_volatility_a_ratio() {
        let mut track = Track::default();
        // 1, 3, 1, 3 ...: mean 2, standard deviation 1.
        (1..=100).for_each(|step| track.add(step, if step % 2 == 0 { 3.0 } else { 1.0 }, 1.0));
        let middle = |curve: Vec<(f64, f64)>| curve[50].1;
        // A window of 9 around step 51 holds five 1s and four 3s.
        assert!((middle(track.smooth(8)) - 17.0 / 9.0).abs() < 1e-12);
        let mean = 17.0 / 9.0;
        let square = 41.0 / 9.0;
        let expected = f64::sqrt(square - mean * mean) / mean;
        assert!((middle(track.volatility(8)) - expected).abs() < 1e-12);
        assert_eq!(track.smooth(1), track.points());
    }

    #[test]
    fn what_is_no_number_leaves_no_trace() {
        let mut track = Track::default();
        track.add(1, f64::NAN, 1.0);
        track.add(2, 1.0, 0.0);
        assert_eq!(
            (
                track.mean(),
                track.points(),
                track.smooth(10),
                track.volatility(10)
            ),
            (None, vec![], vec![], vec![])
        );
        track.add(3, 1e300, 1.0);
        track.add(4, 1e300, 1.0);
        track.add(5, 1e300, 1.0);
        assert!(track.volatility(10).iter().all(|point| point.1.is_finite()));
    }

    #[test]
    fn windows_are_round() {
        assert_eq!(
            [1, 30, 60, 500, 640, 1_000_000].map(window),
            [1, 1, 2, 20, 20, 20_000]
        );
    }
}

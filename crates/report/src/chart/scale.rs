//! From numbers to places on paper: linear and logarithmic scales, with round ticks.

use crate::chart::number;
use crate::chart::number::Unit;

/// One axis: how its numbers are written and where it may start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Axis {
    /// What the numbers are.
    pub label: String,
    /// Whether equal ratios take equal lengths. An axis with a number that has no logarithm is
    /// drawn linear.
    pub is_log: bool,
    /// Whether zero is on it whatever the numbers.
    pub from_zero: bool,
    /// How the numbers are written.
    pub unit: Unit,
}

impl Axis {
    /// A linear axis of plain numbers.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            ..Self::default()
        }
    }

    /// The same axis with another unit.
    #[must_use]
    pub fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// The same axis with zero on it.
    #[must_use]
    pub fn from_zero(mut self) -> Self {
        self.from_zero = true;
        self
    }

    /// The same axis, logarithmic if `is_log`.
    #[must_use]
    pub fn log(mut self, is_log: bool) -> Self {
        self.is_log = is_log;
        self
    }
}

/// A place on an axis that is named.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// The number.
    pub value: f64,
    /// How it is written.
    pub label: String,
}

/// A mapping from `[low, high]` to `[from, to]`, in the units of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    is_log: bool,
}

impl Scale {
    /// The scale of an axis over `values`; those that are not finite do not count. With `is_wide`
    /// its ends are round numbers.
    pub fn new(
        axis: &Axis,
        values: impl IntoIterator<Item = f64>,
        ends: (f64, f64),
        is_wide: bool,
    ) -> Self {
        let mut low = f64::INFINITY;
        let mut high = f64::NEG_INFINITY;
        for value in values.into_iter().filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let is_log = axis.is_log && low > 0.0;
        if axis.from_zero && !is_log {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        if low == high {
            (low, high) = around(low, is_log);
        }
        if is_wide && !is_log {
            (low, high) = round_ends(low, high);
        }
        Self {
            low,
            high,
            from: ends.0,
            to: ends.1,
            is_log,
        }
    }

    /// Where a number lies. Numbers outside go to the nearer end, so nothing is ever drawn outside
    /// a picture.
    pub fn at(&self, value: f64) -> f64 {
        // Halves keep the difference of two huge numbers finite.
        let part =
            |value: f64, low: f64, high: f64| (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
        let share = if self.is_log {
            part(
                value.max(f64::MIN_POSITIVE).ln(),
                self.low.ln(),
                self.high.ln(),
            )
        } else {
            part(value, self.low, self.high)
        };
        self.from + (self.to - self.from) * share.clamp(0.0, 1.0)
    }

    /// Both ends, as numbers.
    pub fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Whether equal ratios take equal lengths.
    pub fn is_log(&self) -> bool {
        self.is_log
    }

    /// Round numbers on the scale, about `wanted` of them.
    pub fn ticks(&self, wanted: usize, unit: Unit) -> Vec<Tick> {
        if self.is_log {
            self.log_ticks(wanted, unit)
        } else {
            self.linear_ticks(wanted, unit)
        }
    }

    fn linear_ticks(&self, wanted: usize, unit: Unit) -> Vec<Tick> {
        let mut step = round_step(self.low, self.high, wanted);
        // A count has no halves: steps are whole numbers.
        if unit == Unit::Count && step < 10.0 {
            step = [1.0, 2.0, 5.0]
                .into_iter()
                .find(|whole| *whole >= step)
                .unwrap_or(10.0);
        }
        let first = (self.low / step - 1e-9).ceil();
        let last = (self.high / step + 1e-9).floor();
        let steps = (last - first).clamp(0.0, MOST_TICKS) as usize;
        let largest = self.low.abs().max(self.high.abs());
        (0..=steps)
            .map(|i| (first + i as f64) * step)
            .map(|value| Tick {
                value,
                label: tick_label(value, unit, step, largest),
            })
            .collect()
    }

    fn log_ticks(&self, wanted: usize, unit: Unit) -> Vec<Tick> {
        let first = self.low.log10();
        let last = self.high.log10();
        let decades = (last.floor() - first.ceil()).max(0.0) as i32 + 1;
        let multiples: &[f64] = match decades {
            ..=1 => &[1.0, 2.0, 3.0, 5.0, 7.0],
            2 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let every = (decades as usize).div_ceil(wanted.max(2)).max(1) as i32;
        let from = first.floor() as i32;
        let to = last.ceil() as i32;
        let is_inside = |value: &f64| {
            *value >= self.low * (1.0 - 1e-9)
                && *value <= self.high * (1.0 + 1e-9)
                && value.is_finite()
        };
        let values = (from..=to)
            .filter(|power| power.rem_euclid(every) == 0)
            .flat_map(|power| multiples.iter().map(move |m| m * 10f64.powi(power)));
        let ticks: Vec<Tick> = values
            .filter(is_inside)
            .map(|value| Tick {
                value,
                label: log_label(value, unit),
            })
            .collect();
        if ticks.len() >= 2 {
            return ticks;
        }

        // An axis from 1.1 to 1.9 lies between two multiples.
        let mut linear = self.linear_ticks(wanted, unit);
        linear.retain(|tick| is_inside(&tick.value));
        if linear.len() > ticks.len() {
            linear
        } else {
            ticks
        }
    }
}

/// More ticks than anyone can read; a guard against steps too small for their numbers.
const MOST_TICKS: f64 = 20.0;

/// A stretch around one number.
fn around(value: f64, is_log: bool) -> (f64, f64) {
    match value {
        v if is_log => ((v / 2.0).max(f64::MIN_POSITIVE), (v * 2.0).min(f64::MAX)),
        0.0 => (0.0, 1.0),
        v if v > 0.0 => (0.0, if v > f64::MAX / 2.0 { v } else { 2.0 * v }),
        v => (if v < f64::MIN / 2.0 { v } else { 2.0 * v }, 0.0),
    }
}

/// Steps are 1, 2, 2.5 or 5 times a power of ten.
fn round_step(low: f64, high: f64, wanted: usize) -> f64 {
    let rough = (high / 2.0 - low / 2.0) / wanted.max(1) as f64 * 2.0;
    let power = 10f64.powf(rough.log10().floor()).max(f64::MIN_POSITIVE);
    let multiple = [1.0, 2.0, 2.5, 5.0]
        .into_iter()
        .find(|multiple| multiple * power >= rough * (1.0 - 1e-9))
        .unwrap_or(10.0);
    (multiple * power).clamp(f64::MIN_POSITIVE, f64::MAX)
}

/// Power of ten of the last digit that a multiple of `step` can have: -1 for 0.5 and for 2.5, 0 for
/// 2, 3 for 5000.
fn last_digit(step: f64) -> i32 {
    let power = (step.log10() + 1e-9).floor();
    let leading = step / 10f64.powf(power);
    let is_whole = (leading - leading.round()).abs() < 1e-6;
    power as i32 - i32::from(!is_whole)
}

/// Number of steps that wide ends are rounded to.
const STEPS_OF_ENDS: usize = 4;

fn round_ends(low: f64, high: f64) -> (f64, f64) {
    let step = round_step(low, high, STEPS_OF_ENDS);
    let round_low = (low / step + 1e-9).floor() * step;
    let round_high = (high / step - 1e-9).ceil() * step;
    if round_low.is_finite() && round_high.is_finite() && round_low < round_high {
        (round_low, round_high)
    } else {
        (low, high)
    }
}

/// Numbers from here on are written as powers of ten.
const HUGE: f64 = 1e12;
/// Where the largest number of an axis is below, all are written as powers of ten.
const TINY: f64 = 1e-2;
/// Where the largest number of an axis is at least this, all are written short: `12.5k`.
const LONG: f64 = 1e4;

/// The number of a tick with the digits that its axis' step needs, so that equal distances read as
/// equal differences.
fn tick_label(value: f64, unit: Unit, step: f64, largest: f64) -> String {
    let (factor, sign) = match unit {
        Unit::Percent => (100.0, " %"),
        _ => (1.0, ""),
    };
    if value == 0.0 {
        return format!("0{sign}");
    }
    let value = value * factor;
    let largest = largest * factor;
    let digit = last_digit(step * factor);
    let text = if largest < TINY || value.abs() >= HUGE {
        number::scientific_to(value, digit)
    } else if unit == Unit::Count || largest >= LONG {
        number::short_to(value, digit)
    } else {
        number::fixed(value, digit.min(0).unsigned_abs() as usize)
    };
    text + sign
}

/// The number of a tick of a logarithmic axis: one digit times a power of ten.
fn log_label(value: f64, unit: Unit) -> String {
    let (value, sign) = match unit {
        Unit::Percent => (100.0 * value, " %"),
        _ => (value, ""),
    };
    let digit = (value.abs().log10() + 1e-9).floor() as i32;
    let text = match value {
        v if !(1e-3..1e5).contains(&v) => number::scientific(v),
        v if v < 1.0 => number::fixed(v, digit.unsigned_abs() as usize),
        v => number::short_to(v, digit),
    };
    text + sign
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, values: &[f64]) -> Vec<String> {
        let scale = Scale::new(axis, values.iter().copied(), (0.0, 100.0), true);
        scale
            .ticks(4, axis.unit)
            .into_iter()
            .map(|tick| tick.label)
            .collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(
            labels(&Axis::new("loss"), &[0.13, 3.7]),
            ["0", "1", "2", "3", "4"]
        );
        assert_eq!(
            labels(&Axis::new("wer").unit(Unit::Percent).from_zero(), &[0.41]),
            ["0 %", "20 %", "40 %", "60 %"]
        );
        assert_eq!(
            labels(&Axis::new("step").unit(Unit::Count), &[1.0, 2.0]),
            ["1", "2"]
        );
        assert_eq!(
            labels(&Axis::new("x"), &[0.0, 0.1]),
            ["0", "0.025", "0.050", "0.075", "0.100"]
        );
        assert_eq!(
            labels(&Axis::new("x"), &[-1.0, 1.0]),
            ["−1.0", "−0.5", "0", "0.5", "1.0"]
        );
        assert_eq!(
            labels(&Axis::new("rate"), &[0.0, 1e-3]),
            ["0", "2.5×10⁻⁴", "5×10⁻⁴", "7.5×10⁻⁴", "10⁻³"]
        );
        assert_eq!(
            labels(&Axis::new("norm").log(true), &[0.02, 900.0]),
            ["0.1", "1", "10", "100"]
        );
        assert_eq!(
            labels(&Axis::new("norm").log(true), &[1.0, 6.0]),
            ["1", "2", "3", "5"]
        );
        assert_eq!(
            labels(&Axis::new("norm").log(true), &[1e-12, 1e12]),
            ["10⁻⁷", "1", "10⁷"]
        );
        assert_eq!(
            labels(&Axis::new("norm").log(true), &[1.1, 1.9]),
            ["1.2", "1.4", "1.6", "1.8"]
        );
    }

    /// Expected labels are those of `tests/reference/axis_ticks.py`, which computes with fractions.
    #[test]
    fn ticks_read_as_an_exact_computation_has_them() {
        #[derive(serde::Deserialize)]
        struct Case {
            low: f64,
            high: f64,
            wanted: usize,
            unit: String,
            labels: Vec<String>,
        }
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../../tests/fixtures/axis_ticks.json"))
                .unwrap();
        assert!(cases.len() > 200, "{} cases", cases.len());
        for case in cases {
            let unit = match case.unit.as_str() {
                "percent" => Unit::Percent,
                "count" => Unit::Count,
                _ => Unit::Plain,
            };
            let axis = Axis::new("").unit(unit);
            let scale = Scale::new(&axis, [case.low, case.high], (0.0, 1.0), false);
            let labels: Vec<String> = scale
                .ticks(case.wanted, unit)
                .into_iter()
                .map(|tick| tick.label)
                .collect();
            let place = format!("{} to {}, {}", case.low, case.high, case.unit);
            assert_eq!(labels, case.labels, "{place}");
        }
    }

    #[test]
    fn small_percentages_have_labels_on_a_log_axis() {
        let axis = Axis::new("share").unit(Unit::Percent).log(true);
        assert_eq!(
            labels(&axis, &[1e-6, 1e-4]),
            ["10⁻⁴ %", "0.001 %", "0.01 %"]
        );
    }

    #[test]
    fn every_number_finds_a_place_inside() {
        let extremes = [
            f64::MIN,
            -1.0,
            0.0,
            f64::MIN_POSITIVE,
            1e-300,
            1.0,
            1e300,
            f64::MAX,
            f64::NAN,
            f64::INFINITY,
        ];
        for is_log in [false, true] {
            for pair in extremes.iter().flat_map(|a| extremes.map(|b| [*a, b])) {
                for is_wide in [false, true] {
                    let scale =
                        Scale::new(&Axis::new("").log(is_log), pair, (10.0, 200.0), is_wide);
                    for value in extremes.into_iter().filter(|value| value.is_finite()) {
                        let place = scale.at(value);
                        assert!(
                            (10.0..=200.0).contains(&place),
                            "{value} of {pair:?} (log {is_log}) is at {place}"
                        );
                    }
                    let ticks = scale.ticks(5, Unit::Plain);
                    assert!(
                        ticks.len() <= 30 && ticks.iter().all(|tick| tick.value.is_finite()),
                        "{pair:?}: {ticks:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_log_axis_with_a_zero_on_it_is_linear() {
        assert!(!Scale::new(&Axis::new("").log(true), [0.0, 10.0], (0.0, 1.0), true).is_log());
        assert!(Scale::new(&Axis::new("").log(true), [0.1, 10.0], (0.0, 1.0), true).is_log());
    }
}

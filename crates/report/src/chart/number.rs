//! Numbers as people read them: counts in groups of three, percentages, durations, nothing longer
//! than it is exact.

use maqam_metrics::Scale;

/// Between groups of three digits; no line breaks at it.
const THIN_SPACE: char = '\u{202f}';
/// What stands where there is no number.
pub const NOTHING: &str = "–";

/// What a number counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// A number as it is: a loss, a norm.
    #[default]
    Plain,
    /// A share in `[0, 1]`, shown times 100.
    Percent,
    /// Points of 100, as BLEU and chrF are given.
    Points,
    /// A whole number of things.
    Count,
}

impl Unit {
    /// The unit in which scores of a metric are shown.
    pub fn of(scale: Scale) -> Self {
        match scale {
            Scale::Share => Self::Percent,
            Scale::Points => Self::Points,
            Scale::Plain => Self::Plain,
        }
    }

    /// The number as text, without the unit's sign.
    pub fn format(self, value: f64) -> String {
        match self {
            _ if !value.is_finite() => NOTHING.to_owned(),
            Self::Plain => plain(value),
            Self::Percent => fixed(100.0 * value, 1),
            Self::Points => fixed(value, 1),
            Self::Count => count(value),
        }
    }

    /// As [`Unit::format`], with a sign also where the number is positive.
    pub fn format_signed(self, value: f64) -> String {
        let text = self.format(value);
        let is_zero = !text.contains(|c: char| c.is_ascii_digit() && c != '0');
        if value > 0.0 && !is_zero {
            format!("+{text}")
        } else {
            text
        }
    }

    /// The unit's sign, empty for plain numbers.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Percent => "%",
            Self::Plain | Self::Points | Self::Count => "",
        }
    }
}

/// Numbers from here on are written as powers of ten.
const HUGE: f64 = 1e7;
/// Numbers below are written as powers of ten.
const TINY: f64 = 1e-3;

/// A number to about four digits.
fn plain(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(TINY..HUGE).contains(&size) => scientific(value),
        size if size >= 1000.0 => count(value),
        size if size >= 100.0 => fixed(value, 1),
        size if size >= 10.0 => fixed(value, 2),
        _ => fixed(value, 3),
    }
}

/// A fixed number of decimals with a true minus; numbers too large for that as powers of ten.
pub fn fixed(value: f64, decimals: usize) -> String {
    if value.abs() >= HUGE {
        return scientific(value);
    }
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(zero) if !zero.contains(|c: char| c.is_ascii_digit() && c != '0') => zero.to_owned(),
        Some(positive) => format!("−{positive}"),
        None => text,
    }
}

/// `1.2×10⁻⁵`: two digits.
pub fn scientific(value: f64) -> String {
    as_power(value, 1)
}

/// A power of ten with as many digits as `value` has down to the digit of 10 to the power `digit`;
/// trailing zeros are left out.
pub fn scientific_to(value: f64, digit: i32) -> String {
    let power = (value.abs().log10() + 1e-9).floor() as i32;
    as_power(value, (power - digit).clamp(0, MOST_DIGITS) as usize)
}

/// Most digits after the first that mean anything in a double.
const MOST_DIGITS: i32 = 15;

fn as_power(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let digits = without_zeros(digits);
    let raised: String = exponent.chars().map(superscript).collect();
    match digits {
        "1" => format!("10{raised}"),
        "-1" => format!("−10{raised}"),
        _ => format!("{}×10{raised}", digits.replace('-', "−")),
    }
}

/// Decimals without the zeros at their end.
fn without_zeros(digits: &str) -> &str {
    if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        digits
    }
}

fn superscript(c: char) -> char {
    match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        _ => c
            .to_digit(10)
            .and_then(|digit| char::from_u32(0x2070 + digit))
            .unwrap_or(c),
    }
}

/// A whole number in groups of three.
pub fn count(value: f64) -> String {
    let rounded = value.round();
    if !rounded.is_finite() {
        return NOTHING.to_owned();
    }
    if rounded.abs() >= 1e15 {
        return scientific(rounded);
    }
    let digits = format!("{:.0}", rounded.abs());
    let mut text = if rounded < 0.0 {
        "−".to_owned()
    } else {
        String::new()
    };
    for (i, digit) in digits.chars().enumerate() {
        // Four digits are read at a glance and stay together.
        if i > 0 && digits.len() > 4 && (digits.len() - i).is_multiple_of(3) {
            text.push(THIN_SPACE);
        }
        text.push(digit);
    }
    text
}

/// A p-value to three decimals: `= 0.012`, `< 0.001`.
pub fn p_value(p: f64) -> String {
    if p < 0.001 {
        "< 0.001".to_owned()
    } else {
        format!("= {p:.3}")
    }
}

/// A stretch of time in the unit that suits it: `850 ms`, `12.3 s`, `4.5 min`, `1.25 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => NOTHING.to_owned(),
        s if s < 1.0 => format!("{:.0} ms", 1000.0 * s),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.1} min", s / 60.0),
        s if s < 360_000.0 => format!("{:.2} h", s / 3600.0),
        s => format!("{} h", count(s / 3600.0)),
    }
}

/// A count as short as a picture needs it, to two decimals: `950`, `12k`, `3.4M`.
pub fn short(value: f64) -> String {
    shortened(value, |_| 2)
}

/// A number as short as it can be written down to the digit of 10 to the power `digit`: `12.5k`
/// where that is 2.
pub fn short_to(value: f64, digit: i32) -> String {
    if value.abs() >= 1e12 {
        return scientific_to(value, digit);
    }
    shortened(value, |power| {
        (power - digit).clamp(0, MOST_DIGITS) as usize
    })
}

/// A number over the suffix that suits it; `decimals` says how many for the suffix's power of ten.
fn shortened(value: f64, decimals: impl Fn(i32) -> usize) -> String {
    let (power, suffix) = match value.abs() {
        size if size >= 1e12 => return scientific(value),
        size if size >= 1e9 => (9, "G"),
        size if size >= 1e6 => (6, "M"),
        size if size >= 1e4 => (3, "k"),
        _ => (0, ""),
    };
    let decimals = decimals(power);
    let text = format!("{:.decimals$}", value / 10f64.powi(power)).replace('-', "−");
    format!("{}{suffix}", without_zeros(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        let cases = [
            (Unit::Percent, 0.0826, "8.3"),
            (Unit::Percent, 1.024, "102.4"),
            (Unit::Percent, -0.0821, "−8.2"),
            (Unit::Percent, -0.00001, "0.0"),
            (Unit::Points, 31.25, "31.2"),
            (Unit::Plain, 3.14259, "3.143"),
            (Unit::Plain, 0.00001234, "1.2×10⁻⁵"),
            (Unit::Plain, 1e300, "10³⁰⁰"),
            (Unit::Plain, 0.0, "0"),
            (Unit::Plain, f64::NAN, "–"),
            (Unit::Count, 1234.0, "1234"),
            (Unit::Count, 1_234_567.0, "1\u{202f}234\u{202f}567"),
            (Unit::Count, -12_345.0, "−12\u{202f}345"),
        ];
        for (unit, value, expected) in cases {
            assert_eq!(unit.format(value), expected, "{value}");
        }
        assert_eq!(Unit::Percent.format_signed(0.02), "+2.0");
        assert_eq!(Unit::Percent.format_signed(0.00001), "0.0");
        assert_eq!(Unit::Percent.format_signed(-0.02), "−2.0");
    }

    #[test]
    fn time_and_ticks_take_the_unit_that_suits() {
        assert_eq!(
            [0.85, 12.34, 270.0, 4500.0, 3.6e6].map(duration),
            ["850 ms", "12.3 s", "4.5 min", "1.25 h", "1000 h"]
        );
        assert_eq!(
            [0.0, 950.0, 2500.0, 12_000.0, 3_400_000.0, -20_000.0].map(short),
            ["0", "950", "2500", "12k", "3.4M", "−20k"]
        );
    }
}

//! How long a judge is waited for and how often it is asked again.

use std::time::Duration;
use std::time::SystemTime;

use crate::seed::Key as SeedKey;

/// Limits of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Requests for one answer where the endpoint fails or cannot be reached.
    pub max_attempts: u32,
    /// Answers asked for where they cannot be used.
    pub max_answers: u32,
    /// The wait after the first failure; it doubles with each.
    pub first_wait: Duration,
    /// The longest wait of our own choosing.
    pub longest_wait: Duration,
    /// The longest wait that the endpoint may ask for.
    pub longest_retry_after: Duration,
    /// The longest that one request may take.
    pub timeout: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            max_attempts: 6,
            max_answers: 3,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
            longest_retry_after: Duration::from_secs(600),
            timeout: Duration::from_secs(120),
        }
    }
}

impl Patience {
    /// The wait after failure number `attempt` (from 0): twice the last, of which a share between a
    /// half and the whole is drawn, so that requests which failed together do not come back
    /// together.
    pub fn wait(&self, attempt: u32, draw: SeedKey) -> Duration {
        let doubled = self
            .first_wait
            .saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX))
            .min(self.longest_wait);
        doubled.mul_f64(0.5 + 0.5 * draw.uniform(u64::from(attempt)))
    }
}

/// The wait that a header `Retry-After` asks for: seconds, or a date (RFC 9110, sections 5.6.7 and
/// 10.2.3).
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds(value)?);
    Some(until.duration_since(now).unwrap_or_default())
}

/// The seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn unix_seconds(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let parts: Vec<&str> = date.split(' ').collect();
    let [_, day, month, year, clock, "GMT"] = parts[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|known| *known == month)? as u64;
    let day = day.parse::<u64>().ok()?;
    let year = year.parse::<u64>().ok()?;
    let clock: Vec<u64> = clock
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else {
        return None;
    };
    if !(1..=31).contains(&day)
        || !(1970..=9999).contains(&year)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Years begin in March, so that the leap day is the last (Hinnant, *chrono-compatible low-level
    // date algorithms*).
    let (shifted_year, shifted_month) = if month < 2 {
        (year - 1, month + 10)
    } else {
        (year, month - 2)
    };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = 365 * shifted_year + shifted_year / 4 - shifted_year / 100
        + shifted_year / 400
        + day_of_year;
    Some(days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_draw_up_to_the_longest() {
        let patience = Patience::default();
        for attempt in 0..40 {
            let whole = (1u64 << attempt.min(6)).min(60) as f64;
            for row in 0..20 {
                let wait = patience.wait(attempt, SeedKey::new(row, "x")).as_secs_f64();
                assert!((0.5 * whole..=whole).contains(&wait), "{attempt}: {wait}");
            }
        }
        let waits: std::collections::BTreeSet<Duration> = (0..20)
            .map(|row| patience.wait(1, SeedKey::new(row, "x")))
            .collect();
        assert_eq!(waits.len(), 20);
    }

    #[test]
    fn an_endpoint_asks_for_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, expected) in [
            ("7", Some(7.0)),
            (" 0.5 ", Some(0.5)),
            ("0", Some(0.0)),
            // The example of RFC 9110, which is 784111777 seconds after 1970
            // (`date -ud 'Sun, 06 Nov 1994 08:49:37' +%s`).
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0.0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60.0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0.0)),
            ("Wed, 01 Mar 1995 00:00:00 GMT", Some(9_904_223.0)),
            ("-3", None),
            ("NaN", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ] {
            assert_eq!(
                retry_after(value, now).map(|wait| wait.as_secs_f64()),
                expected,
                "{value}"
            );
        }
        assert_eq!(
            unix_seconds("Thu, 29 Feb 2024 12:00:00 GMT"),
            Some(1_709_208_000)
        );
        assert_eq!(unix_seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
    }
}

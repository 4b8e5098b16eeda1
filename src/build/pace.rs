//! Rate limit of an endpoint: the least time between two requests of this process.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::stop::Stop;

/// Longest sleep before the stop flag is read again.
const NAP: Duration = Duration::from_millis(100);

/// Times of requests.
pub(crate) struct Pace {
    interval: Option<Duration>,
    /// Earliest time of the next request.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most so many requests per minute; no limit without a number.
    pub(crate) fn new(per_minute: Option<f64>) -> Self {
        Self {
            interval: per_minute.map(|number| Duration::from_secs_f64(60.0 / number)),
            next: Mutex::new(None),
        }
    }

    /// Waits until the next request may be sent, or until the user asks to stop.
    pub(crate) fn wait(&self, stop: &Stop) {
        let Some(interval) = self.interval else {
            return;
        };
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + interval);
            at
        };
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() || stop.is_requested() {
                return;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_one_pace() {
        let stop = Stop::new();
        let pace = Pace::new(Some(3000.0));
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..3).for_each(|_| pace.wait(&stop)));
            }
        });
        // Twelve requests have eleven intervals of 20 ms between them.
        assert!(started.elapsed() >= Duration::from_millis(220));

        let slow = Pace::new(Some(1e-3));
        slow.wait(&stop);
        stop.request();
        slow.wait(&stop);
        Pace::new(None).wait(&stop);
    }
}

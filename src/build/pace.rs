//! Times of the requests of this process to an endpoint: the least time between two, and waits that
//! the endpoint asks for.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::stop::Stop;

/// Longest sleep before the stop flag is read again.
const NAP: Duration = Duration::from_millis(100);

/// Times of requests, shared by all threads.
pub(crate) struct Pace {
    interval: Option<Duration>,
    times: Mutex<Times>,
}

#[derive(Clone, Copy, Default)]
struct Times {
    /// Earliest time of the next request by the rate.
    next: Option<Instant>,
    /// Time until which the endpoint asked to wait.
    not_before: Option<Instant>,
}

impl Pace {
    /// At most so many requests per minute; no limit without a number.
    pub(crate) fn new(per_minute: Option<f64>) -> Self {
        Self {
            interval: per_minute.map(|number| Duration::from_secs_f64(60.0 / number)),
            times: Mutex::default(),
        }
    }

    /// Waits until the next request may be sent, or until the user asks to stop.
    pub(crate) fn wait(&self, stop: &Stop) {
        loop {
            let at = self.take_turn();
            loop {
                let left = at.saturating_duration_since(Instant::now());
                if stop.is_requested() {
                    return;
                }
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(NAP));
            }
            // The endpoint may have asked another thread to wait in the meantime.
            if self.times().not_before.is_none_or(|until| until <= at) {
                return;
            }
        }
    }

    /// Lets no request begin before a time.
    pub(crate) fn hold(&self, until: Instant) {
        let mut times = self.times();
        times.not_before = times.not_before.max(Some(until));
    }

    /// The time of a request, which no other request takes.
    fn take_turn(&self) -> Instant {
        let mut times = self.times();
        let now = Instant::now();
        let at = now.max(times.not_before.unwrap_or(now));
        let Some(interval) = self.interval else {
            return at;
        };
        let at = at.max(times.next.unwrap_or(at));
        times.next = Some(at + interval);
        at
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn all_threads_wait_when_one_was_asked_to() {
        let stop = Stop::new();
        for per_minute in [None, Some(60_000.0)] {
            let pace = Pace::new(per_minute);
            let started = Instant::now();
            pace.hold(started + Duration::from_millis(150));
            pace.hold(started + Duration::from_millis(20));
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        pace.wait(&stop);
                        assert!(started.elapsed() >= Duration::from_millis(150));
                    });
                }
            });
            assert!(started.elapsed() < Duration::from_secs(20));
        }
    }
}

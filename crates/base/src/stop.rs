//! The user's wish to stop, asked for by a signal and looked at by all work between whole steps.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::error::Result;

/// Wish to stop. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A wish that nobody has yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks all work to stop, and returns whether that was asked before.
    pub fn request(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    /// Returns whether the user asked to stop.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends work that can be left where it is; `message` says what there is of it.
    ///
    /// # Errors
    /// The user asked to stop.
    pub fn check(&self, message: impl fmt::Display) -> Result<()> {
        match self.is_requested() {
            true => Err(Error::interrupted(message)),
            false => Ok(()),
        }
    }

    /// Ends work of which nothing is written before its end.
    ///
    /// # Errors
    /// The user asked to stop.
    pub fn check_unwritten(&self) -> Result<()> {
        self.check("stopped; nothing was written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_all_clones() {
        let stop = Stop::new();
        let of_the_work = stop.clone();
        assert!(of_the_work.check("stopped").is_ok());

        assert!(!stop.request());
        assert!(stop.request(), "asked before");
        let error = of_the_work.check("stopped; 3 rows are done").unwrap_err();
        assert_eq!(error.exit_code(), 130);
        assert_eq!(error.to_string(), "stopped; 3 rows are done");
        assert_eq!(error.at("a file").to_string(), "stopped; 3 rows are done");
    }
}

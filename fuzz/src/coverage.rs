//! Code that an input reached, where the compiler was told to count it (`fuzz/run`); without
//! counters nothing is ever new.
//!
//! Source: LLVM's SanitizerCoverage, "inline 8-bit counters".

use std::slice;
use std::sync::Mutex;

/// First and last byte of the counters of each compiled unit.
static REGIONS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Tells where a unit's counters lie; instrumented code calls it before `main`.
///
/// # Safety
/// Between the two pointers lie the unit's counters, for as long as the program runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    if let Ok(mut regions) = REGIONS.lock()
        && start < stop
        && !regions.contains(&(start as usize, stop as usize))
    {
        regions.push((start as usize, stop as usize));
    }
}

/// Tells where a unit's addresses lie, which are not used.
#[unsafe(no_mangle)]
pub extern "C" fn __sanitizer_cov_pcs_init(_start: *const usize, _stop: *const usize) {}

/// What was reached so far.
#[derive(Default)]
pub struct Coverage {
    /// For each counter, the classes of counts that were seen, one bit each.
    seen: Vec<u8>,
}

impl Coverage {
    /// Number of counters; 0 where the code has none.
    pub fn total(&self) -> usize {
        regions().iter().map(|(start, stop)| stop - start).sum()
    }

    /// Number of counters that were ever reached.
    pub fn reached(&self) -> usize {
        self.seen.iter().filter(|&&bits| bits != 0).count()
    }

    /// Forgets the counts of the input before.
    pub fn begin(&self) {
        for (start, stop) in regions() {
            // SAFETY: the unit gave this range as its counters, and only this thread runs
            // instrumented code now.
            unsafe { slice::from_raw_parts_mut(start as *mut u8, stop - start) }.fill(0);
        }
    }

    /// Adds the counts since [`Coverage::begin`], and says whether they hold something new.
    pub fn add(&mut self) -> bool {
        self.seen.resize(self.total(), 0);
        let mut seen = self.seen.iter_mut();
        let mut is_new = false;
        for (start, stop) in regions() {
            // SAFETY: as in `begin`.
            let counters = unsafe { slice::from_raw_parts(start as *const u8, stop - start) };
            for (&count, seen) in counters.iter().zip(&mut seen) {
                let class = match count {
                    0 => 0,
                    1 => 1,
                    2 => 2,
                    3 => 4,
                    4..=7 => 8,
                    8..=15 => 16,
                    16..=31 => 32,
                    32..=127 => 64,
                    _ => 128,
                };
                is_new |= class & !*seen != 0;
                *seen |= class;
            }
        }
        is_new
    }
}

fn regions() -> Vec<(usize, usize)> {
    REGIONS
        .lock()
        .map(|regions| regions.clone())
        .unwrap_or_default()
}

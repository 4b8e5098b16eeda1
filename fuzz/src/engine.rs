//! The search: inputs that reach new code, or end in a new way, are kept and changed again.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::coverage::Coverage;
use crate::mutate::Draw;
use crate::mutate::mutate;
use crate::target::MOST_SECONDS;
use crate::target::Outcome;
use crate::target::Target;

/// How a search goes.
pub struct Settings {
    /// Seconds in all.
    pub seconds: u64,
    /// Seconds without anything new after which a search ends.
    pub idle_seconds: u64,
    /// Longest input, in bytes.
    pub most_bytes: usize,
    /// Seed of the changes.
    pub seed: u64,
    /// Folder of inputs that are faults, and of the one that runs.
    pub found: PathBuf,
    /// Folder to which inputs with something new are written.
    pub kept: Option<PathBuf>,
}

/// What a search found.
#[derive(Default)]
pub struct Report {
    /// Inputs that ran.
    pub runs: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Inputs at the beginning and at the end.
    pub seeds: usize,
    /// Inputs with something new, seeds included.
    pub kept: usize,
    /// Counters in the code, those that the seeds reached, and those that were reached at the end.
    pub counters: usize,
    /// Counters that the seeds reached.
    pub reached_by_seeds: usize,
    /// Counters that were reached.
    pub reached: usize,
    /// Seconds since something new was found.
    pub idle_seconds: f64,
    /// Ways in which inputs end.
    pub kinds: usize,
    /// Panics of libraries that were turned into errors, with their number.
    pub contained: BTreeMap<String, u64>,
    /// Faults and the files that hold their inputs.
    pub faults: BTreeMap<String, PathBuf>,
    /// Longest time of an input, in seconds.
    pub slowest_s: f64,
    /// Most memory of an input, in bytes.
    pub peak_bytes: usize,
}

/// Every file below `folder`, with its contents; those longer than `most_bytes` are cut.
///
/// # Errors
/// The system's.
pub fn inputs(folder: &Path, most_bytes: usize) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            found.append(&mut inputs(&path, most_bytes)?);
        } else {
            let mut bytes = fs::read(&path)?;
            bytes.truncate(most_bytes);
            found.push((path, bytes));
        }
    }
    Ok(found)
}

/// Looks for faults.
///
/// # Errors
/// The system's, where an input cannot be written.
pub fn search(target: &Target, seeds: Vec<Vec<u8>>, settings: &Settings) -> io::Result<Report> {
    fs::create_dir_all(&settings.found)?;
    let current = settings.found.join(format!("{}-running", target.name));
    let begun = watch_for_hangs(current.clone());

    let mut search = Search {
        target,
        settings,
        coverage: Coverage::default(),
        kinds: HashSet::new(),
        pool: Vec::new(),
        report: Report {
            seeds: seeds.len(),
            ..Report::default()
        },
        current,
        begun,
    };
    let start = Instant::now();
    for seed in seeds {
        search.try_input(seed)?;
    }
    search.report.reached_by_seeds = search.coverage.reached();
    if search.pool.is_empty() {
        search.pool.push(Vec::new());
    }

    let mut draw = Draw(settings.seed);
    let mut last_new = Instant::now();
    while start.elapsed() < Duration::from_secs(settings.seconds)
        && last_new.elapsed() < Duration::from_secs(settings.idle_seconds)
    {
        let pool = &search.pool;
        // Newer inputs are chosen more often.
        let index = draw.below(pool.len()).max(draw.below(pool.len()));
        let other = &pool[draw.below(pool.len())];
        let mut input = mutate(
            &pool[index],
            other,
            target.words,
            settings.most_bytes,
            &mut draw,
        );
        if let Some(repair) = target.repair
            && draw.below(8) > 0
        {
            repair(&mut input);
        }
        if search.try_input(input)? {
            last_new = Instant::now();
        }
    }
    search.begun.store(u64::MAX, Ordering::Relaxed);
    fs::remove_file(&search.current)?;

    let mut report = search.report;
    report.seconds = start.elapsed().as_secs_f64();
    report.idle_seconds = last_new.elapsed().as_secs_f64();
    report.kept = search.pool.len();
    report.kinds = search.kinds.len();
    report.counters = search.coverage.total();
    report.reached = search.coverage.reached();
    Ok(report)
}

struct Search<'a> {
    target: &'a Target,
    settings: &'a Settings,
    coverage: Coverage,
    kinds: HashSet<String>,
    pool: Vec<Vec<u8>>,
    report: Report,
    /// File of the input that runs, which stays if the program is killed by it.
    current: PathBuf,
    /// Milliseconds of the clock at which it began.
    begun: Arc<AtomicU64>,
}

impl Search<'_> {
    /// Runs an input, and keeps it if something is new.
    fn try_input(&mut self, input: Vec<u8>) -> io::Result<bool> {
        fs::write(&self.current, &input)?;
        self.coverage.begin();
        self.begun.store(now_ms(), Ordering::Relaxed);
        let outcome = self.target.run(&input);
        self.begun.store(u64::MAX, Ordering::Relaxed);
        let is_new = self.coverage.add() | self.kinds.insert(outcome.kind.clone());

        self.count(&outcome);
        if let Some(fault) = outcome.fault {
            let key: String = fault.chars().filter(|c| !c.is_ascii_digit()).collect();
            if !self.report.faults.contains_key(&key) {
                let name = format!("{}-{}", self.target.name, self.report.faults.len());
                let path = self.settings.found.join(name);
                fs::write(&path, &input)?;
                self.report.faults.insert(key, path);
            }
        }
        if is_new {
            if let Some(folder) = &self.settings.kept {
                fs::create_dir_all(folder)?;
                fs::write(folder.join(format!("{:06}", self.pool.len())), &input)?;
            }
            self.pool.push(input);
        }
        Ok(is_new)
    }

    fn count(&mut self, outcome: &Outcome) {
        let report = &mut self.report;
        report.runs += 1;
        report.slowest_s = report.slowest_s.max(outcome.time.as_secs_f64());
        report.peak_bytes = report.peak_bytes.max(outcome.peak_bytes);
        if let Some(contained) = &outcome.contained {
            *report.contained.entry(contained.clone()).or_default() += 1;
        }
    }
}

/// Ends the program when one input runs too long; its file stays.
fn watch_for_hangs(current: PathBuf) -> Arc<AtomicU64> {
    let begun = Arc::new(AtomicU64::new(u64::MAX));
    let watched = begun.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let began = watched.load(Ordering::Relaxed);
            if began != u64::MAX && now_ms().saturating_sub(began) > 3 * MOST_SECONDS * 1000 {
                eprintln!("an input hangs: {}", current.display());
                std::process::exit(1);
            }
        }
    });
    begun
}

fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}

/// Smallest inputs that together reach all that `inputs` reach, at most `most_bytes` in all.
pub fn distil(target: &Target, mut inputs: Vec<Vec<u8>>, most_bytes: usize) -> Vec<Vec<u8>> {
    inputs.sort_by_key(Vec::len);
    let mut coverage = Coverage::default();
    let mut kinds = HashSet::new();
    let mut kept = Vec::new();
    let mut total = 0;
    for input in inputs {
        coverage.begin();
        let outcome = target.run(&input);
        let is_new = coverage.add() | kinds.insert(outcome.kind);
        if is_new && total + input.len() <= most_bytes {
            total += input.len();
            kept.push(input);
        }
    }
    kept
}

impl Report {
    /// One line of figures, then contained panics and faults.
    pub fn text(&self, name: &str) -> String {
        let percent = 100.0 * self.reached as f64 / self.counters.max(1) as f64;
        let mut text = format!(
            "{name}: {} runs in {:.0} s, {} seeds, {} kept, {} endings, counters {} of {} ({percent:.1} %; seeds {}), nothing new for {:.0} s, slowest {:.2} s, most memory {:.1} MiB",
            self.runs,
            self.seconds,
            self.seeds,
            self.kept,
            self.kinds,
            self.reached,
            self.counters,
            self.reached_by_seeds,
            self.idle_seconds,
            self.slowest_s,
            self.peak_bytes as f64 / f64::from(1 << 20)
        );
        for (what, times) in &self.contained {
            text += &format!("\n  contained {times} times: {what}");
        }
        for (what, path) in &self.faults {
            text += &format!("\n  FAULT {what}\n    input: {}", path.display());
        }
        text
    }
}

//! Time and memory of schedules over many rows: diverse drawing from a million with embeddings, by
//! each rule, and mixtures and balanced drawing from a million and ten million. Run:
//! `cargo bench --bench schedule`. Times of steps are the thread's processor time, which other
//! programs on the machine do not lengthen.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use maqam::schedule::Embeddings;
use maqam::schedule::Entry;
use maqam::schedule::NO_LABEL;
use maqam::schedule::Population;
use maqam::schedule::Schedule;
use maqam::schedule::Settings;
use maqam::schedule::Vectors;
use maqam::seed::Key;

const MIXTURES: &str = r#"{"batch": 64, "stages": [
    {"tasks": ["asr"], "steps": 5000},
    {"tasks": ["summarization"], "replay": 0.2, "steps": 5000},
    {"mix": "uniform", "steps": 5000},
    {"mix": "temperature", "temperature": 3, "epochs": 1}
]}"#;
const BALANCED: &str = r#"{"batch": 64, "stages": [{"draw": "balanced", "epochs": 1}]}"#;
const SHUFFLED: &str = r#"{"batch": 64, "shuffle": true, "stages": [{"tasks": ["asr"], "steps": 5000}, {"draw": "balanced", "epochs": 1}]}"#;
const DIMS: usize = 64;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let million = population(1_000_000);
    diverse(&million)?;
    for (name, recipe) in [
        ("mixtures", MIXTURES),
        ("balanced", BALANCED),
        ("shuffled", SHUFFLED),
    ] {
        measure(name, recipe, &million)?;
    }
    drop(million);
    let ten_million = population(10_000_000);
    for (name, recipe) in [("mixtures", MIXTURES), ("balanced", BALANCED)] {
        measure(name, recipe, &ten_million)?;
    }
    Ok(())
}

/// Four tasks of unequal size, 16 data entries with two tasks in each; dialect has five labels and
/// emotion seven.
fn population(rows: u32) -> Population {
    let entry_rows = rows / 16;
    let entry = |i: u32| Entry {
        rows: i * entry_rows..(i + 1) * entry_rows,
        weight: if i.is_multiple_of(3) { 2.0 } else { 1.0 },
    };
    let task = |row: u32| {
        if (row / entry_rows).is_multiple_of(2) {
            u16::from(row.is_multiple_of(4))
        } else {
            2 + u16::from(row.is_multiple_of(8))
        }
    };
    let labels = |num: usize| (0..num).map(|label| format!("label-{label}")).collect();
    let key = Key::new(1, "labels");
    // The square makes the first labels several times as frequent as the last.
    let label = |row: u32| match task(row) {
        2 => (5.0 * key.uniform(u64::from(row)).powi(2)) as u16,
        3 => (7.0 * key.uniform(u64::from(row)).powi(2)) as u16,
        _ => NO_LABEL,
    };
    Population {
        tasks: ["asr", "summarization", "dialect", "emotion"]
            .map(String::from)
            .into(),
        labels: vec![labels(0), labels(0), labels(5), labels(7)],
        row_task: (0..rows).map(task).collect(),
        row_label: (0..rows).map(label).collect(),
        row_has_audio: vec![true; rows as usize],
        entries: (0..16).map(entry).collect(),
    }
}

/// Diverse drawing, the time to make embeddings comparable counted as start.
fn diverse(population: &Population) -> Outcome {
    let num_rows = population.row_task.len();
    let key = Key::new(2, "embeddings");
    let values: Vec<f32> = (0..(num_rows * DIMS) as u64)
        .map(|at| key.uniform(at) as f32 - 0.5)
        .collect();
    let given = Vectors {
        rows: (0..num_rows as u32).collect(),
        dims: DIMS,
        values,
    };

    let started = Instant::now();
    let embeddings = Arc::new(Embeddings::new(given, Vectors::default(), 1)?);
    println!(
        "{num_rows} embeddings of {DIMS}: centred and normalised in {:.1?}, {} MiB resident",
        started.elapsed(),
        memory_mib("VmRSS")
    );
    for (keys, steps) in [
        ("", 4000),
        (r#""select": "kmeans","#, 400),
        (r#""select": "kdpp","#, 400),
        (r#""embeddings": "random","#, 400),
    ] {
        let settings: Settings = serde_json::from_str(&format!(
            r#"{{"batch": 64, "stages": [{{"draw": "diverse", {keys} "steps": {steps}}}]}}"#
        ))?;
        let started = Instant::now();
        let mut schedule = Schedule::new(&settings, population, 7)?;
        if schedule.embeddings_of(0).is_some() {
            schedule.set_embeddings(0, embeddings.clone())?;
        }
        let start = started.elapsed();
        println!(
            "diverse {}, {num_rows} rows: start {start:.1?}",
            if keys.is_empty() { "farthest" } else { keys }
        );
        walk(&schedule)?;
    }
    Ok(())
}

fn measure(name: &str, recipe: &str, population: &Population) -> Outcome {
    let settings: Settings = serde_json::from_str(recipe)?;
    let before_mib = memory_mib("VmRSS");
    let started = Instant::now();
    let schedule = Schedule::new(&settings, population, 7)?;
    println!(
        "{name}, {} rows: start {:.1?}",
        population.row_task.len(),
        started.elapsed()
    );
    walk(&schedule)?;
    println!(
        "  {} MiB of it for the schedule",
        memory_mib("VmRSS") - before_mib
    );
    Ok(())
}

/// Every step in order, then some at random places.
fn walk(schedule: &Schedule) -> Outcome {
    let mut longest = Duration::ZERO;
    let mut first = Duration::ZERO;
    let mut seen = 0u64;
    let started = thread_time();
    for step in 0..schedule.num_steps() {
        let step_started = thread_time();
        seen += schedule
            .picks(step)?
            .iter()
            .map(|pick| u64::from(pick.row))
            .sum::<u64>();
        longest = longest.max(thread_time() - step_started);
        if step == 0 {
            first = thread_time() - step_started;
        }
    }
    let in_order = (thread_time() - started) / schedule.num_steps() as u32;

    let key = Key::new(1, "bench");
    let mut longest_at_random = Duration::ZERO;
    let asked = 200;
    let started = thread_time();
    for i in 0..asked {
        let step_started = thread_time();
        seen += u64::from(
            schedule.picks(key.below(u64::from(i), schedule.num_steps() as usize) as u64)?[0].row,
        );
        longest_at_random = longest_at_random.max(thread_time() - step_started);
    }
    let at_random = (thread_time() - started) / asked;
    println!(
        "  {} steps of {}: {in_order:.2?} on average, the first {first:.2?}, the longest {longest:.2?} (sum of rows {seen})",
        schedule.num_steps(),
        schedule.batch()
    );
    println!("  at random places {at_random:.2?} on average, {longest_at_random:.2?} at most");
    println!(
        "  resident: {} MiB now, {} MiB at the peak",
        memory_mib("VmRSS"),
        memory_mib("VmHWM")
    );
    Ok(())
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec that nothing else sees.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A figure of the process from Linux, 0 elsewhere.
fn memory_mib(name: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<i64>().ok())
        .unwrap_or(0)
        / 1024
}

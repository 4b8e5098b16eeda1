//! Time and memory of a schedule over many rows: start, steps in order (each epoch's order is made on the way), and steps
//! at random places. Run: `cargo bench --bench schedule`.

use std::time::Duration;
use std::time::Instant;

use maqam::schedule::Entry;
use maqam::schedule::Population;
use maqam::schedule::Schedule;
use maqam::schedule::Settings;
use maqam::seed::Key;

const RECIPE: &str = r#"{"batch": 64, "stages": [
    {"tasks": ["asr"], "steps": 5000},
    {"tasks": ["summarization"], "replay": 0.2, "steps": 5000},
    {"mix": "uniform", "steps": 5000},
    {"mix": "temperature", "temperature": 3, "epochs": 1}
]}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for rows in [1_000_000, 10_000_000] {
        measure(rows)?;
    }
    Ok(())
}

/// Four tasks of unequal size, 16 data entries with two tasks in each.
fn population(rows: u32) -> Population {
    let entry_rows = rows / 16;
    let entry = |i: u32| Entry { rows: i * entry_rows..(i + 1) * entry_rows, weight: if i.is_multiple_of(3) { 2.0 } else { 1.0 } };
    let task = |row: u32| if (row / entry_rows).is_multiple_of(2) { u16::from(row.is_multiple_of(4)) } else { 2 + u16::from(row.is_multiple_of(8)) };
    Population {
        tasks: ["asr", "summarization", "dialect", "emotion"].map(String::from).into(),
        row_task: (0..rows).map(task).collect(),
        entries: (0..16).map(entry).collect(),
    }
}

fn measure(rows: u32) -> Result<(), Box<dyn std::error::Error>> {
    let population = population(rows);
    let settings: Settings = serde_json::from_str(RECIPE)?;
    let before_mib = memory_mib("VmRSS");

    let started = Instant::now();
    let schedule = Schedule::new(&settings, &population, 7)?;
    let start = started.elapsed();

    let (mut longest, mut seen) = (Duration::ZERO, 0u64);
    let started = Instant::now();
    for step in 0..schedule.num_steps() {
        let step_started = Instant::now();
        seen += schedule.picks(step).iter().map(|pick| u64::from(pick.row)).sum::<u64>();
        longest = longest.max(step_started.elapsed());
    }
    let in_order = started.elapsed() / schedule.num_steps() as u32;

    let key = Key::new(1, "bench");
    let started = Instant::now();
    let asked: u32 = 200;
    for i in 0..asked {
        seen += u64::from(schedule.picks(key.below(u64::from(i), schedule.num_steps() as usize) as u64)[0].row);
    }
    let at_random = started.elapsed() / asked;

    println!("{rows} rows, {} steps of {} (sum of rows {seen})", schedule.num_steps(), schedule.batch());
    println!("  start {start:.1?}; a step {in_order:.2?} amortised, {longest:.1?} at most (a new epoch), {at_random:.1?} at random places");
    println!("  memory: {} MiB for the schedule, {} MiB at the peak of the process", memory_mib("VmRSS") - before_mib, memory_mib("VmHWM"));
    Ok(())
}

/// A figure of the process from Linux, 0 elsewhere.
fn memory_mib(name: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<i64>().ok()).unwrap_or(0) / 1024
}

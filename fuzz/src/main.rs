//! `maqam-fuzz TARGET`: looks for faults in what maqam reads.

use std::path::PathBuf;
use std::process::ExitCode;

use maqam_fuzz::engine;
use maqam_fuzz::engine::Settings;
use maqam_fuzz::target::Target;

const USAGE: &str =
    "usage: maqam-fuzz (TARGET | all) [--seconds 600] [--idle 120] [--most-bytes 16384] [--seed 0]
       [--seeds FOLDER]... [--keep FOLDER] [--found FOLDER] [--distil FOLDER]";

/// What the command line asks for.
struct Arguments {
    target: String,
    settings: Settings,
    seeds: Vec<PathBuf>,
    distil: Option<PathBuf>,
}

fn main() -> ExitCode {
    let targets = maqam_fuzz::targets();
    let Some(arguments) = arguments() else {
        let names: Vec<&str> = targets.iter().map(|target| target.name).collect();
        eprintln!("{USAGE}\ntargets: {}", names.join(", "));
        return ExitCode::from(2);
    };
    let wanted: Vec<&Target> = targets
        .iter()
        .filter(|target| arguments.target == "all" || arguments.target == target.name)
        .collect();
    if wanted.is_empty() {
        eprintln!("no target `{}`\n{USAGE}", arguments.target);
        return ExitCode::from(2);
    }
    let mut is_clean = true;
    for target in wanted {
        match run(target, &arguments) {
            Ok(clean) => is_clean &= clean,
            Err(error) => {
                eprintln!("{}: {error}", target.name);
                return ExitCode::from(4);
            }
        }
    }
    if is_clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(target: &Target, arguments: &Arguments) -> std::io::Result<bool> {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let mut seeds = Vec::new();
    for folder in arguments.seeds.iter().chain([&corpus]) {
        if folder.is_dir() {
            let found = engine::inputs(folder, arguments.settings.most_bytes)?;
            seeds.extend(found.into_iter().map(|(_, bytes)| bytes));
        }
    }
    if let Some(folder) = &arguments.distil {
        std::fs::create_dir_all(folder)?;
        let kept = engine::distil(target, seeds, 48 << 10);
        println!("{}: {} inputs kept", target.name, kept.len());
        for (i, input) in kept.iter().enumerate() {
            std::fs::write(folder.join(format!("{i:03}")), input)?;
        }
        return Ok(true);
    }
    let report = engine::search(target, seeds, &arguments.settings)?;
    println!("{}", report.text(target.name));
    Ok(report.faults.is_empty())
}

fn arguments() -> Option<Arguments> {
    let mut words = std::env::args().skip(1);
    let mut arguments = Arguments {
        target: words.next()?,
        settings: Settings {
            seconds: 600,
            idle_seconds: 120,
            most_bytes: 1 << 14,
            seed: 0,
            found: std::env::temp_dir().join("maqam-fuzz"),
            kept: None,
        },
        seeds: Vec::new(),
        distil: None,
    };
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--seconds" => arguments.settings.seconds = value.parse().ok()?,
            "--idle" => arguments.settings.idle_seconds = value.parse().ok()?,
            "--most-bytes" => arguments.settings.most_bytes = value.parse().ok()?,
            "--seed" => arguments.settings.seed = value.parse().ok()?,
            "--seeds" => arguments.seeds.push(value.into()),
            "--keep" => arguments.settings.kept = Some(value.into()),
            "--found" => arguments.settings.found = value.into(),
            "--distil" => arguments.distil = Some(value.into()),
            _ => return None,
        }
    }
    Some(arguments)
}

//! `maqam data split`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::manifests::SourceArguments;
use crate::cli::data::rows::EachManifest;
use crate::cli::print;
use crate::data::divide::Division;
use crate::data::divide::Totals;
use crate::data::split::Amounts;
use crate::data::split::Assignment;
use crate::data::split::Part;
use crate::error::Result;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    /// Manifest to divide, or several that are divided as one.
    #[arg(required = true)]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    source: SourceArguments,
    /// Folder of the results: train.jsonl, dev.jsonl, test.jsonl.
    #[arg(long)]
    out: PathBuf,
    /// Fields whose values never stand in two parts; with several, rows that share any of them stay together. Rows without a value are
    /// divided one by one.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "FIELD",
        default_value = "speaker"
    )]
    by: Vec<String>,
    /// Share of the groups that goes to dev.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    dev: f64,
    /// Share of the groups that goes to test.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    test: f64,
    /// Hours of audio of dev and test, instead of shares: 1.5 for each, or 1.5,3 for dev and test.
    #[arg(long, value_delimiter = ',', value_name = "HOURS", num_args = 1..=2, conflicts_with_all = ["dev", "test"])]
    hours: Vec<f64>,
    /// Fields of which dev and test should have every combination.
    #[arg(long, value_delimiter = ',', value_name = "FIELD")]
    stratify: Vec<String>,
    /// Another seed, another division.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let amounts = arguments.amounts();
    amounts.check()?;
    let division = Division {
        manifests: arguments.source.manifests(&arguments.manifests)?,
        by: arguments.by.clone(),
        stratify: arguments.stratify.clone(),
        out: arguments.out.clone(),
    };

    let mut screen = EachManifest::default();
    let (splitter, groups) = division.groups(arguments.seed, stop, &mut screen)?;
    let num_rows = groups.num_rows();
    let assignment = splitter.assign(amounts)?;
    if let Some(note) = arguments.note(groups.num_alone, num_rows) {
        print::message(format_args!("note: {note}"));
    }
    arguments.tell_parts(&assignment);
    let totals = division.write(&groups, &assignment, stop, &mut screen)?;
    show(&division, &assignment, &totals)
}

fn show(division: &Division, assignment: &Assignment, totals: &Totals) -> Result<()> {
    for (i, part) in Part::ALL.into_iter().enumerate() {
        print::line(format_args!(
            "{:<6}{:>10} rows {:>9.2} hours {:>9} groups  {}",
            part.name(),
            totals.rows[i],
            totals.seconds[i] / 3600.0,
            assignment.num_groups[i],
            division.path(part).display()
        ))?;
    }
    Ok(())
}

impl Arguments {
    /// Prints what a reader of the parts must know of their sizes.
    fn tell_parts(&self, assignment: &Assignment) {
        if assignment.num_chosen > 0 {
            print::message(format_args!(
                "note: {} groups were chosen for dev or test, which had none of their kind; added rows may move them",
                assignment.num_chosen
            ));
        }
        for part in [Part::Dev, Part::Test] {
            let is_empty = assignment.num_groups[part as usize] == 0;
            if is_empty && self.wants(part) {
                print::message(format_args!(
                    "note: {} is empty: there are too few groups for its size",
                    part.name()
                ));
            }
        }
    }

    fn amounts(&self) -> Amounts {
        match self.hours.as_slice() {
            [] => Amounts::Shares {
                dev: self.dev,
                test: self.test,
            },
            [dev] => Amounts::Hours {
                dev: *dev,
                test: *dev,
            },
            [dev, test, ..] => Amounts::Hours {
                dev: *dev,
                test: *test,
            },
        }
    }

    /// Whether a part of the data is asked for.
    fn wants(&self, part: Part) -> bool {
        let (Amounts::Shares { dev, test } | Amounts::Hours { dev, test }) = self.amounts();
        match part {
            Part::Train => true,
            Part::Dev => dev > 0.0,
            Part::Test => test > 0.0,
        }
    }

    /// A note on rows without a group.
    fn note(&self, num_alone: u64, num_rows: u64) -> Option<String> {
        (num_alone > 0).then(|| {
            format!(
                "{num_alone} of {num_rows} rows have no {}; each of them is a group of its own",
                self.by
                    .iter()
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
                    .join(" or ")
            )
        })
    }
}

//! `maqam data split`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::manifests::SourceArguments;
use crate::cli::data::rows::EachManifest;
use crate::cli::print;
use crate::data::divide::Division;
use crate::data::divide::Groups;
use crate::data::divide::Totals;
use crate::data::headers;
use crate::data::headers::Headers;
use crate::data::split::Amounts;
use crate::data::split::Assignment;
use crate::data::split::SplitPart;
use crate::error::Result;
use crate::stop::Stop;
use crate::text_table::counted;

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
    /// Fields whose values never stand in two parts; with several, rows that share any of them stay
    /// together. Rows without a value are divided one by one.
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
    /// Lengths that rows do not state are read from headers.
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
        headers: (!arguments.hours.is_empty()).then(|| Headers::open(Path::new(headers::FOLDER))),
    };

    let mut screen = EachManifest::default();
    let (splitter, groups) = division.groups(arguments.seed, stop, &mut screen)?;
    let assignment = splitter.assign(amounts)?;
    for note in [arguments.alone(&groups), unknown(&groups)]
        .into_iter()
        .flatten()
    {
        print::message(format_args!("note: {note}"));
    }
    arguments.tell_parts(&assignment);
    let totals = division.write(&groups, &assignment, stop, &mut screen)?;
    show(&division, &assignment, &totals)
}

fn show(division: &Division, assignment: &Assignment, totals: &Totals) -> Result<()> {
    for (i, part) in SplitPart::ALL.into_iter().enumerate() {
        let hours = match totals.unknown[i] > 0 && totals.seconds[i] == 0.0 {
            true => "unknown".to_owned(),
            false => format!("{:.2}", totals.seconds[i] / 3600.0),
        };
        print::line(format_args!(
            "{:<6}{:>15} {hours:>9} hours {:>16}  {}",
            part.name(),
            counted(totals.rows[i], "row"),
            counted(assignment.num_groups[i] as u64, "group"),
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
                "note: groups chosen for dev or test, which had none of their kind: {}; added rows may move them",
                assignment.num_chosen
            ));
        }
        for part in [SplitPart::Dev, SplitPart::Test] {
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
    fn wants(&self, part: SplitPart) -> bool {
        let (Amounts::Shares { dev, test } | Amounts::Hours { dev, test }) = self.amounts();
        match part {
            SplitPart::Train => true,
            SplitPart::Dev => dev > 0.0,
            SplitPart::Test => test > 0.0,
        }
    }

    /// A note on rows without a group.
    fn alone(&self, groups: &Groups) -> Option<String> {
        if groups.num_alone == 0 {
            return None;
        }
        let by: Vec<String> = self.by.iter().map(|name| format!("`{name}`")).collect();
        let mut note = format!(
            "no {} in {} of {}; each of them is a group of its own",
            by.join(" or "),
            groups.num_alone,
            counted(groups.num_rows(), "row"),
        );
        let most = groups.likely.iter().max_by_key(|(_, number)| **number);
        if let Some((column, number)) = most {
            note += &format!(
                ". `{column}` of {} looks like the speaker: add `--columns speaker={column}`",
                counted(*number, "row")
            );
        }
        Some(note)
    }
}

/// A note on audio of unknown length.
fn unknown(groups: &Groups) -> Option<String> {
    (groups.num_unknown > 0).then(|| {
        format!(
            "no length in {} of {}: the hours below leave them out, `--hours` reads headers",
            groups.num_unknown,
            counted(groups.num_rows(), "row")
        )
    })
}

//! `maqam data normalise`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use serde_json::Value;

use crate::cli::data::rows::SourceArguments;
use crate::cli::data::rows::copied_row;
use crate::cli::data::rows::folder_of;
use crate::cli::interrupt::check_stop;
use crate::cli::print;
use crate::data::Row;
use crate::data::arabic;
use crate::data::arabic::Rules;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Draft;
use crate::stop::Stop;

/// Name of the field in which a row states that its text is in Latin letters.
const TRANSLITERATION: &str = "transliteration";

#[derive(Args)]
pub struct Arguments {
    /// Manifest to read.
    manifest: PathBuf,
    #[command(flatten)]
    source: SourceArguments,
    /// Manifest to write, JSON lines. Each row states the rules in its field `normalisation`.
    #[arg(long)]
    out: PathBuf,
    /// Changes of Arabic spelling: presentation, tatweel, diacritics, alef, digits, all or none.
    #[arg(long, value_name = "RULE,...", default_value = "none")]
    rules: Rules,
    /// Transliterate texts: from Buckwalter's Latin letters to Arabic before the rules, or to them after the rules.
    #[arg(long, value_enum)]
    buckwalter: Option<Direction>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    From,
    To,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    if arguments.rules.is_empty() && arguments.buckwalter.is_none() {
        return Err(Error::input("nothing to do").hint(
            "name rules, such as --rules tatweel,diacritics, or a direction: --buckwalter from",
        ));
    }
    let folder = folder_of(&arguments.out);
    let mut draft = Draft::new(&arguments.out)?;
    let (mut num_rows, mut num_changed) = (0u64, 0u64);
    let notes = arguments
        .source
        .of(&arguments.manifest)?
        .stream(&mut |streamed| {
            check_stop(stop)?;
            let place = format!("{}:{}", streamed.file.display(), streamed.line);
            let mut row = streamed.row.map_err(|bad| bad.error.at(&place))?;
            let before = row.text.clone();
            arguments.change(&mut row).map_err(|e| e.at(&place))?;
            num_rows += 1;
            num_changed += u64::from(row.text != before);
            draft.append(&copied_row(&row, folder)?)
        })?;
    draft.commit()?;
    for note in notes {
        print::message(format_args!("note: {note}"));
    }
    print::line(format_args!(
        "{num_rows} rows in {}, {num_changed} transcripts changed",
        arguments.out.display()
    ))
}

impl Arguments {
    fn change(&self, row: &mut Row) -> Result<()> {
        if self.buckwalter == Some(Direction::From) {
            transliterate(row, arabic::from_buckwalter)?;
            state(row, None);
        }
        self.rules.apply_to(row)?;
        if self.buckwalter == Some(Direction::To) {
            transliterate(row, arabic::to_buckwalter)?;
            state(row, Some("buckwalter"));
        }
        Ok(())
    }
}

fn transliterate(row: &mut Row, change: fn(&str) -> Result<String>) -> Result<()> {
    let texts = [&mut row.text, &mut row.summary, &mut row.target];
    for text in texts.into_iter().flatten().chain(&mut row.references) {
        *text = change(text)?.into();
    }
    Ok(())
}

/// States in the row which letters its texts are in.
fn state(row: &mut Row, transliteration: Option<&str>) {
    let mut extra = row.extra_fields();
    match transliteration {
        Some(name) => extra.insert(TRANSLITERATION.to_owned(), name.into()),
        None => extra.shift_remove(TRANSLITERATION),
    };
    row.extra = (!extra.is_empty()).then(|| Value::Object(extra).to_string().into());
}

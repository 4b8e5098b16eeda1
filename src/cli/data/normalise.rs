//! `maqam data normalise`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::arguments::manifests::SourceArguments;
use crate::cli::data::rows::tell;
use crate::cli::print;
use crate::data::arabic::Rules;
use crate::data::respell::Direction;
use crate::data::respell::Respelling;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::stop::Stop;
use crate::text_table::counted;

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
    /// Transliterate texts: from Buckwalter's Latin letters to Arabic before the rules, or to them
    /// after the rules.
    #[arg(long, value_enum)]
    buckwalter: Option<DirectionName>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DirectionName {
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
    let respelling = Respelling {
        rules: arguments.rules.clone(),
        buckwalter: arguments.buckwalter.map(|name| match name {
            DirectionName::From => Direction::From,
            DirectionName::To => Direction::To,
        }),
    };
    let manifests = std::slice::from_ref(&arguments.manifest);
    let manifests = arguments.source.manifests(manifests)?;

    let counts = respelling.write(&manifests, &arguments.out, stop)?;
    tell(&counts.notes);
    print::line(format_args!(
        "{} in {}, {} changed",
        counted(counts.rows, "row"),
        arguments.out.display(),
        counted(counts.changed, "transcript")
    ))
}

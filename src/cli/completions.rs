//! `maqam completions`.

use clap::Args;

use crate::cli::print;
use crate::error::Error;
use crate::error::Result;

#[derive(Args)]
pub struct Arguments {
    /// Shell to complete in.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(arguments: &Arguments, mut program: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, "maqam", &mut script);
    print::result(String::from_utf8(script).map_err(Error::bug_from)?)
}

//! Answers to rows.

use rayon::prelude::*;

use crate::error::Kind;
use crate::error::Result;
use crate::eval::answers::Asker;
use crate::eval::rows::Output;
use crate::eval::rows::READ_AHEAD;
use crate::featurise::Loader;
use crate::records::generated_answers::GeneratedAnswer;
use crate::seed::Key;
use crate::stop::Stop;
use crate::task::Example;
use crate::task::Mode;

/// Answers examples, each within its limit of new tokens: a line of `output` for each that can be
/// used. `progress` is given the number of answers.
///
/// # Errors
/// What is no fault of a row; `output` holds the rows before it. The user asked to stop.
pub fn generate(
    asker: &Asker<'_>,
    examples: &[(&Example, usize)],
    output: &mut Output<'_>,
    progress: &mut dyn FnMut(u64),
    stop: &Stop,
) -> Result<()> {
    for chunk in examples.chunks(READ_AHEAD) {
        let num_done = output.len();
        let mut watch = |done: usize| {
            progress((num_done + done) as u64);
            stop.check_unwritten()
        };
        let (chunk, answers) = match asker.answers(chunk, &mut watch) {
            Ok(answers) => (chunk.to_vec(), answers),
            Err(error) if error.kind == Kind::Input => {
                // Some row cannot be read: each is looked at, and the others are asked without it.
                let readable = readable(asker.loader, chunk, output)?;
                if readable.len() == chunk.len() {
                    return Err(error.at_path(output.data));
                }
                let answers = asker.answers(&readable, &mut watch)?;
                (readable, answers)
            }
            Err(error) => return Err(error.at_path(output.data)),
        };
        for ((example, _), answer) in chunk.iter().zip(answers) {
            output.add(&GeneratedAnswer {
                id: example.id.clone(),
                prediction: answer.text,
                tokens: answer.tokens,
            })?;
        }
    }
    Ok(())
}

/// The examples whose rows can be read.
fn readable<'a>(
    loader: &Loader,
    examples: &[(&'a Example, usize)],
    output: &mut Output<'_>,
) -> Result<Vec<(&'a Example, usize)>> {
    let key = Key::new(0, "readable");
    let loaded: Vec<Result<()>> = examples
        .par_iter()
        .map(|(example, _)| loader.load(example, Mode::Generate, key).map(drop))
        .collect();
    let mut found = Vec::with_capacity(examples.len());
    for (example, loaded) in examples.iter().zip(loaded) {
        if output.bad.check(loaded)?.is_some() {
            found.push(*example);
        }
    }
    Ok(found)
}

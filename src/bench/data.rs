//! Reading of the rows that a recipe trains on, timed without a model: decoding, resampling,
//! augmentation, log-mel and tokens.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use std::time::Instant;

use rayon::prelude::*;
use serde_json::Value;
use serde_json::json;

use crate::data::OnBadRow;
use crate::data::headers;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::featurise::Loader;
use crate::featurise::rows::Pool;
use crate::featurise::rows::Watch;
use crate::machine::processor_seconds;
use crate::recipe::Recipe;
use crate::recipe::RecipeRows;
use crate::schedule::Pick;
use crate::seed::Key;
use crate::task::Mode;
use crate::text_table::counted;

/// Speed of reading.
#[derive(Debug, Default, PartialEq)]
pub struct Reading {
    /// Seconds of each step.
    pub seconds: Vec<f64>,
    /// Rows that were read.
    pub rows: usize,
    /// Rows that cannot be read and are left out, as `on_bad_row: skip` says.
    pub skipped: usize,
    /// Seconds of their audio.
    pub audio_s: f64,
    /// Tokens of their sequences.
    pub tokens: usize,
    /// Processor time of all threads in seconds; none where the system does not say it.
    pub processor_s: Option<f64>,
    /// Threads that read.
    pub threads: usize,
    /// Seconds that a training step computes, as the user states.
    pub step_s: Option<f64>,
    /// Seconds that steps waited for their rows, from the second step on; empty without `step_s`.
    pub waited_s: Vec<f64>,
}

/// Reads the rows of the first `num_steps` steps as training does. Steps whose picks depend on the
/// model are left out. `model_dir` is the folder of `model.path`; its weights are not read.
/// With `step_s`, the next step is read while one sleeps for that many seconds.
///
/// # Errors
/// Rows that cannot be used, unless the recipe skips them; a recipe whose every step depends on the
/// model.
pub fn measure(
    recipe: &Recipe,
    model_dir: &Path,
    num_steps: usize,
    step_s: Option<f64>,
    watch: Watch<'_>,
) -> Result<Reading> {
    let headers = Headers::open(Path::new(headers::FOLDER));
    let rows = recipe.rows(&recipe.tasks()?, &headers, Pool::Fresh, &mut *watch)?;
    headers.keep();
    let config = recipe.config(model_dir)?;
    let loader = Loader::new(model_dir, &config, recipe.max_audio_s)?;

    let schedule = &rows.schedule;
    let steps: Vec<u64> = (0..schedule.num_steps())
        .filter(|&step| !schedule.needs_model(schedule.stage_of(step).0))
        .take(num_steps)
        .collect();
    if steps.is_empty() {
        return Err(
            Error::input("the picks of every step depend on embeddings of audio")
                .hint("measure with `--set` and a stage of `draw: shuffled`"),
        );
    }

    let mut reading = Reading {
        threads: rayon::current_num_threads(),
        step_s,
        ..Reading::default()
    };
    let before = processor_seconds();
    let sleep = step_s.map(Duration::from_secs_f64);
    let timed = read_ahead(
        steps.len(),
        sleep,
        |done| read_step(recipe, &rows, &loader, steps[done]),
        |done, read| {
            watch("steps", done, steps.len())?;
            reading.add(read, recipe.on_bad_row)
        },
    )?;
    reading.processor_s = before
        .zip(processor_seconds())
        .map(|(before, after)| after - before);
    reading.seconds = timed.iter().map(|step| step.read.as_secs_f64()).collect();
    if step_s.is_some() {
        let waited = timed.iter().skip(1).map(|step| step.waited.as_secs_f64());
        reading.waited_s = waited.collect();
    }
    Ok(reading)
}

/// Time of a step.
struct Timed {
    /// Time to read its rows.
    read: Duration,
    /// Part of that time in which no other step computed.
    waited: Duration,
}

/// Reads steps one after the other, and passes them to `take`. With `sleep`, a step is read while
/// the one before it sleeps so long, as training reads a step ahead.
///
/// # Errors
/// The first of `read` and of `take`.
fn read_ahead<T: Send>(
    num_steps: usize,
    sleep: Option<Duration>,
    read: impl Fn(usize) -> Result<T> + Sync,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<Vec<Timed>> {
    let read = &read;
    std::thread::scope(|scope| {
        // Without room for a step in the channel, one step is read ahead, as in training.
        let (send, receive) = sync_channel(0);
        scope.spawn(move || {
            for step in 0..num_steps {
                let begin = Instant::now();
                let outcome = read(step);
                let is_last = outcome.is_err();
                if send.send((outcome, begin.elapsed())).is_err() || is_last {
                    break;
                }
            }
        });
        let mut timed = Vec::with_capacity(num_steps);
        for step in 0..num_steps {
            let begin = Instant::now();
            let received = receive.recv();
            let waited = begin.elapsed();
            let (outcome, read) =
                received.map_err(|_| Error::bug("the reader of the next step ended early"))?;
            take(step, outcome?)?;
            timed.push(Timed { read, waited });
            if let Some(sleep) = sleep.filter(|_| step + 1 < num_steps) {
                std::thread::sleep(sleep);
            }
        }
        Ok(timed)
    })
}

/// Reads the rows of a step; returns the seconds of audio and the tokens of each.
fn read_step(
    recipe: &Recipe,
    rows: &RecipeRows,
    loader: &Loader,
    step: u64,
) -> Result<Vec<Result<(f64, usize)>>> {
    let picks = rows.schedule.picks(step)?;
    let read = picks.par_iter().enumerate().map(|(slot, pick)| {
        let key = Key::new(recipe.seed, "step").with(step).with(slot as u64);
        read_row(rows, loader, pick, key)
    });
    Ok(read.collect())
}

/// Reads a row; returns its seconds of audio and its tokens.
fn read_row(rows: &RecipeRows, loader: &Loader, pick: &Pick, key: Key) -> Result<(f64, usize)> {
    let example = rows.corpus.example(pick.row, pick.epoch)?;
    let draw = rows.augmentation.as_ref();
    let draw = draw.map(|augmentation| augmentation.draw(pick.row, pick.epoch));
    let loaded = loader
        .load_augmented(&example, Mode::Train, key, draw)
        .map_err(|e| e.at(rows.corpus.place(pick.row)))?;
    Ok((loaded.seconds, loaded.sequence.tokens.len()))
}

impl Reading {
    /// Counts the rows of a step.
    fn add(&mut self, read: Vec<Result<(f64, usize)>>, on_bad_row: OnBadRow) -> Result<()> {
        for outcome in read {
            match outcome {
                Ok((seconds, tokens)) => {
                    self.rows += 1;
                    self.audio_s += seconds;
                    self.tokens += tokens;
                }
                Err(error) if error.kind == Kind::Input && on_bad_row == OnBadRow::Skip => {
                    self.skipped += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Seconds of all steps.
    fn total_s(&self) -> f64 {
        self.seconds.iter().sum()
    }

    /// Seconds of an average step.
    fn mean_s(&self) -> f64 {
        self.total_s() / self.seconds.len().max(1) as f64
    }

    /// Hours of audio in a minute.
    fn hours_per_minute(&self) -> f64 {
        self.audio_s / 60.0 / self.total_s()
    }

    /// Hours of audio in a minute of one core's time.
    fn hours_per_processor_minute(&self) -> Option<f64> {
        let processor_s = self.processor_s.filter(|&seconds| seconds > 0.0)?;
        Some(self.audio_s / 60.0 / processor_s)
    }

    /// Share of the steps' time that they waited for their data, from the second step on.
    fn waiting_share(&self) -> Option<f64> {
        let step_s = self.step_s?;
        let waited_s: f64 = self.waited_s.iter().sum();
        let num_steps = self.waited_s.len();
        (num_steps > 0).then(|| waited_s / (waited_s + step_s * num_steps as f64))
    }

    /// Returns it as lines.
    pub fn text(&self) -> String {
        let least = self.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.seconds.iter().copied().fold(0.0, f64::max);
        let mut lines = vec![
            format!(
                "{} of {}, {}",
                counted(self.seconds.len() as u64, "step"),
                counted(self.rows as u64, "row"),
                counted(self.threads as u64, "thread")
            ),
            format!(
                "step      {:.4} s (mean; {least:.4} to {most:.4})",
                self.mean_s()
            ),
            format!("rows      {:.1}/s", self.rows as f64 / self.total_s()),
            format!("tokens    {:.0}/s", self.tokens as f64 / self.total_s()),
            format!(
                "audio     {:.2} hours per minute ({:.3} hours read)",
                self.hours_per_minute(),
                self.audio_s / 3600.0
            ),
        ];
        if let Some(rate) = self.hours_per_processor_minute() {
            lines.push(format!(
                "processor {rate:.2} hours of audio per minute of one core"
            ));
        }
        if self.skipped > 0 {
            lines.push(format!("skipped   {}", counted(self.skipped as u64, "row")));
        }
        if let (Some(share), Some(step_s)) = (self.waiting_share(), self.step_s) {
            lines.push(format!(
                "waiting   {:.1} % of the time of steps that compute for {step_s} s (measured from the second step on)",
                100.0 * share
            ));
        }
        lines.join("\n") + "\n"
    }

    /// Returns it as one object.
    pub fn json(&self) -> Value {
        json!({
            "steps": self.seconds.len(),
            "rows": self.rows,
            "skipped": self.skipped,
            "threads": self.threads,
            "seconds": self.seconds,
            "mean_step_s": self.mean_s(),
            "rows_per_s": self.rows as f64 / self.total_s(),
            "tokens_per_s": self.tokens as f64 / self.total_s(),
            "audio_hours": self.audio_s / 3600.0,
            "audio_hours_per_minute": self.hours_per_minute(),
            "processor_s": self.processor_s,
            "audio_hours_per_processor_minute": self.hours_per_processor_minute(),
            "waiting_share": self.waiting_share(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_shares_of_steps() {
        let reading = Reading {
            seconds: vec![0.1, 0.3],
            rows: 8,
            audio_s: 7.2,
            processor_s: Some(0.8),
            step_s: Some(0.05),
            waited_s: vec![0.15],
            ..Reading::default()
        };
        // 0.15 s of waiting before 0.05 s of computing: three quarters of the step.
        assert!((reading.waiting_share().unwrap() - 0.75).abs() < 1e-12);
        let json = reading.json();
        // 7.2 s are 0.002 hours, in 0.4 s of wall time and 0.8 s of processor time.
        assert!((json["audio_hours_per_minute"].as_f64().unwrap() - 0.3).abs() < 1e-12);
        assert!((json["audio_hours_per_processor_minute"].as_f64().unwrap() - 0.15).abs() < 1e-12);
        assert!((json["rows_per_s"].as_f64().unwrap() - 20.0).abs() < 1e-12);
        assert_eq!(Reading::default().waiting_share(), None);
    }

    #[test]
    fn a_step_waits_for_the_rest_of_its_reading() {
        let ms = Duration::from_millis;
        let waited = |read: Duration, step: Duration| -> f64 {
            let mut taken = Vec::new();
            let timed = read_ahead(
                4,
                Some(step),
                |i| {
                    std::thread::sleep(read);
                    Ok(i)
                },
                |step, i| {
                    taken.push((step, i));
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(taken, [(0, 0), (1, 1), (2, 2), (3, 3)]);
            assert!(timed.iter().all(|step| step.read >= read));
            timed
                .iter()
                .skip(1)
                .map(|step| step.waited.as_secs_f64())
                .sum::<f64>()
                / 3.0
        };
        // The whole of reading takes 0.2 s, of which a step of 0.05 s hides a quarter.
        assert!((0.1..0.2).contains(&waited(ms(200), ms(50))));
        assert!(waited(ms(5), ms(200)) < 0.1);
        let failed = read_ahead(3, None, |_| Err::<(), _>(Error::input("x")), |_, ()| Ok(()));
        assert_eq!(failed.err().unwrap().message(), "x");
    }
}

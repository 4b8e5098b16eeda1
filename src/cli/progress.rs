//! Progress with rate and time left: a bar on a terminal, a plain line now and then elsewhere.

use std::io::IsTerminal;
use std::time::Duration;
use std::time::Instant;

use crate::cli::print;
use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

use crate::error::Result;
use crate::stop::Stop;

/// Progress of one piece of work, on standard error.
pub struct Progress {
    group: MultiProgress,
    bar: ProgressBar,
    what: &'static str,
    total: u64,
    done: u64,
    started_at: u64,
    started: Instant,
    last_line: Instant,
    is_terminal: bool,
}

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// Work of `total` units, of which `done` were done before. A total of 0 is unknown.
    pub fn new(what: &'static str, done: u64, total: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && !print::is_quiet();
        let target = if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self::within(
            MultiProgress::with_draw_target(target),
            is_terminal,
            what,
            done,
            total,
        )
    }

    /// A part of this work, shown below it until [`Progress::clear`].
    pub fn part(&self, what: &'static str, total: u64) -> Self {
        Self::within(self.group.clone(), self.is_terminal, what, 0, total)
    }

    fn within(
        group: MultiProgress,
        is_terminal: bool,
        what: &'static str,
        done: u64,
        total: u64,
    ) -> Self {
        let bar = group.add(ProgressBar::new(total));
        let template = match total {
            0 => "{prefix:>10} {pos} {msg}",
            _ => "{prefix:>10} {bar:28} {pos}/{len} {msg}",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(what);
        bar.set_position(done);
        Self {
            group,
            bar,
            what,
            total,
            done,
            started_at: done,
            started: Instant::now(),
            last_line: Instant::now(),
            is_terminal,
        }
    }

    /// `done` units are done; `detail` says how it goes.
    pub fn update(&mut self, done: u64, detail: &str) {
        self.done = done;
        let pace = self.pace();
        let text = [pace.as_str(), detail]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("  ");
        if print::is_verbose() {
            self.line(&format!("{} {}  {text}", self.what, self.count()));
        }
        if self.is_terminal {
            self.bar.set_message(print::printable(&text).into_owned());
            self.bar.set_position(done);
            return;
        }
        let is_due = !print::is_verbose() && self.last_line.elapsed() >= LINE_EVERY;
        let is_due = is_due || (done == self.total && !print::is_verbose());
        if is_due {
            self.last_line = Instant::now();
            print::message(format_args!("{} {}  {text}", self.what, self.count()));
        }
    }

    /// A line of its own, above the bar.
    pub fn line(&self, text: &str) {
        // A line that cannot be shown above the bars is shown without them.
        if !self.is_terminal || self.group.println(print::printable(text)).is_err() {
            print::message(format_args!("{text}"));
        }
    }

    /// What is done, of the total where it is known.
    fn count(&self) -> String {
        match self.total {
            0 => self.done.to_string(),
            total => format!("{}/{total}", self.done),
        }
    }

    /// Rate and time left, once something is done.
    fn pace(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let done = self.done.saturating_sub(self.started_at);
        if done == 0 || seconds < 0.01 {
            return String::new();
        }
        let rate = done as f64 / seconds;
        let left = (self.total.saturating_sub(self.done)) as f64 / rate;
        let rate = if rate >= 1.0 {
            format!("{rate:.1}/s")
        } else {
            format!("{:.1} s each", 1.0 / rate)
        };
        match self.total {
            0 => rate,
            _ => format!("{rate}, {} left", clock(left)),
        }
    }

    /// Takes the bar off the terminal.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Leaves the bar as it is.
    pub fn finish(&self) {
        self.bar.abandon();
    }
}

/// Pieces of work that follow each other, each with a bar of its own while it takes.
pub struct Stages<'a> {
    shown: Option<(&'static str, Progress)>,
    stop: &'a Stop,
}

impl<'a> Stages<'a> {
    /// Work that ends once `stop` is set.
    pub fn new(stop: &'a Stop) -> Self {
        Self { shown: None, stop }
    }

    /// `done` of `total` units of a piece are done.
    ///
    /// # Errors
    /// The user asked to stop.
    pub fn tell(&mut self, what: &'static str, done: usize, total: usize) -> Result<()> {
        self.stop.check_unwritten()?;
        if self.shown.as_ref().is_none_or(|(name, _)| *name != what) {
            self.clear();
            self.shown = Some((what, Progress::new(what, 0, total as u64)));
        }
        if let Some((_, progress)) = self.shown.as_mut().filter(|_| done < total) {
            progress.update(done as u64, "");
        }
        Ok(())
    }

    /// Takes the bar off the terminal.
    pub fn clear(&mut self) {
        if let Some((_, progress)) = self.shown.take() {
            progress.clear();
        }
    }
}

/// Seconds as `1:02:03` or `2:03`.
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let hours = seconds / 3600;
    let minutes = seconds / 60 % 60;
    let seconds = seconds % 60;
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_like_a_clock() {
        assert_eq!(
            [clock(5.4), clock(65.0), clock(3723.0)],
            ["0:05", "1:05", "1:02:03"]
        );
    }
}

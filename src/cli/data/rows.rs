//! How the reading of manifests shows on the terminal.

use std::path::Path;
use std::path::PathBuf;

use crate::cli::print;
use crate::cli::progress::Progress;
use crate::data::manifests::Watcher;
use crate::data::manifests::num_rows;

/// A bar for each manifest.
#[derive(Default)]
pub struct EachManifest(Option<Progress>);

impl Watcher for EachManifest {
    fn begin(&mut self, manifest: &Path) {
        let total = num_rows(&[manifest.to_owned()]);
        self.0 = Some(Progress::new("rows", 0, total));
    }

    fn rows(&mut self, done: u64) {
        if let Some(progress) = &mut self.0 {
            progress.update(done, "");
        }
    }

    fn end(&mut self, notes: &[String]) {
        if let Some(progress) = self.0.take() {
            progress.clear();
        }
        for note in notes {
            print::message(format_args!("note: {note}"));
        }
    }
}

/// One bar for all manifests.
pub struct AllManifests(Progress);

impl AllManifests {
    /// A bar for these manifests.
    pub fn new(manifests: &[PathBuf]) -> Self {
        Self(Progress::new("rows", 0, num_rows(manifests)))
    }

    /// Takes the bar off the terminal.
    pub fn clear(&self) {
        self.0.clear();
    }
}

impl Watcher for AllManifests {
    fn begin(&mut self, _: &Path) {}

    fn rows(&mut self, done: u64) {
        self.0.update(done, "");
    }

    fn end(&mut self, notes: &[String]) {
        for note in notes {
            self.0.line(&format!("note: {note}"));
        }
    }
}

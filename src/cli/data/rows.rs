//! How the reading of manifests shows on the terminal.

use std::path::Path;
use std::path::PathBuf;

use crate::cli::print;
use crate::cli::progress::Progress;
use crate::data::Note;
use crate::data::manifests::Watcher;
use crate::data::manifests::num_rows;

/// A bar for each manifest, and one set of notes for all.
#[derive(Default)]
pub struct EachManifest {
    bar: Option<Progress>,
    notes: Vec<Note>,
}

impl EachManifest {
    /// Prints the notes.
    pub fn finish(self) {
        tell(&self.notes);
    }
}

/// Prints notes.
pub fn tell(notes: &[Note]) {
    for note in notes {
        print::message(format_args!("note: {note}"));
    }
}

/// Adds notes on a manifest to those on others.
fn add(more: Vec<Note>, notes: &mut Vec<Note>) {
    for note in more {
        note.add_to(notes);
    }
}

impl Watcher for EachManifest {
    fn begin(&mut self, manifest: &Path) {
        let total = num_rows(&[manifest.to_owned()]);
        self.bar = Some(Progress::new("rows", 0, total));
    }

    fn rows(&mut self, done: u64) {
        if let Some(progress) = &mut self.bar {
            progress.update(done, "");
        }
    }

    fn end(&mut self, notes: Vec<Note>) {
        if let Some(progress) = self.bar.take() {
            progress.clear();
        }
        add(notes, &mut self.notes);
    }
}

/// One bar and one set of notes for all manifests.
pub struct AllManifests {
    bar: Progress,
    notes: Vec<Note>,
}

impl AllManifests {
    /// A bar for these manifests.
    pub fn new(manifests: &[PathBuf]) -> Self {
        Self {
            bar: Progress::new("rows", 0, num_rows(manifests)),
            notes: Vec::new(),
        }
    }

    /// Takes the bar off the terminal and prints the notes.
    pub fn finish(self) {
        self.bar.clear();
        tell(&self.notes);
    }
}

impl Watcher for AllManifests {
    fn begin(&mut self, _: &Path) {}

    fn rows(&mut self, done: u64) {
        self.bar.update(done, "");
    }

    fn end(&mut self, notes: Vec<Note>) {
        add(notes, &mut self.notes);
    }
}

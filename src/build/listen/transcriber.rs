//! Recognisers, as the step knows them, and the files that programs are given.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::build::listen::windows::Window;
use crate::build::speak::Spoken;
use crate::error::Error;
use crate::error::Result;

/// Somebody who writes down what is said.
pub(crate) trait Transcriber: Sync {
    /// All that a transcript depends on but the recording and its language.
    fn identity(&self) -> Value;

    /// Name, for the card.
    fn described(&self) -> Value;

    /// Transcribes a FLAC file with its sentences; none where the build ends.
    fn transcribe(
        &self,
        file: &Arc<[u8]>,
        spoken: &Spoken,
        language: &str,
    ) -> Result<Option<String>>;
}

/// A recogniser that says how likely it holds a text for a recording.
pub(crate) trait Compares: Sync {
    /// All that a likelihood depends on but the recording, its language and the texts.
    fn depends_on(&self) -> Value;

    /// The first window of a recording that the model takes whole; none if a sentence alone is too
    /// long in every one.
    fn window(&self, spoken: &Spoken) -> Option<Window>;

    /// Log-likelihood per token of each text as the transcript of a window; none if the build ends.
    ///
    /// # Errors
    /// A window that the model cannot take.
    fn likelihoods(
        &self,
        file: &Arc<[u8]>,
        window: Window,
        language: &str,
        texts: &[String],
    ) -> Result<Option<Vec<f64>>>;
}

/// Where a program's recordings are put.
pub(crate) fn temporary(file: &[u8]) -> Result<(tempfile::TempDir, PathBuf)> {
    let failed = |e: std::io::Error| Error::io(&std::env::temp_dir(), "make a folder", e);
    let folder = tempfile::tempdir().map_err(failed)?;
    let path = folder.path().join("speech.flac");
    crate::files::AppendLog::open(&path)?.append(file)?;
    Ok((folder, path))
}

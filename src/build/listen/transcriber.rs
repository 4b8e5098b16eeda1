//! Recognisers, as the step knows them, and the files that programs are given.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

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

/// Where a program's recordings are put.
pub(crate) fn temporary(file: &[u8]) -> Result<(tempfile::TempDir, PathBuf)> {
    let failed = |e: std::io::Error| Error::io(&std::env::temp_dir(), "make a folder", e);
    let folder = tempfile::tempdir().map_err(failed)?;
    let path = folder.path().join("speech.flac");
    crate::files::AppendLog::open(&path)?.append(file)?;
    Ok((folder, path))
}

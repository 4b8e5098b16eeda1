//! Lengths of clips, checked against what the data states and what a run allows.

use rayon::prelude::*;

use crate::Clip;
use crate::Row;
use crate::check::agree;
use crate::headers::Headers;
use maqam_audio::SAMPLE_RATE;
use maqam_audio::Span;
use maqam_audio::num_audio_tokens;
use maqam_audio::num_frames;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Rows between two looks at whether to go on.
const CHUNK: usize = 4096;

impl Headers {
    /// Lengths of each row's clips, or what is wrong with the row: see [`clip_lengths`]. `progress`
    /// is told how many of how many rows are done.
    ///
    /// # Errors
    /// As `progress` returns them.
    pub fn check(
        &self,
        rows: &[Row],
        max_audio_s: Option<f64>,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<Result<Vec<usize>>>> {
        let mut found = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(CHUNK) {
            progress(found.len(), rows.len())?;
            found.par_extend(
                chunk
                    .par_iter()
                    .map(|row| clip_lengths(row, max_audio_s, self)),
            );
        }
        progress(rows.len(), rows.len())?;
        self.keep();
        Ok(found)
    }
}

/// Lengths of a row's clips in samples at [`SAMPLE_RATE`], equal to those that are encoded, read
/// from the headers of their files or from what was read of them before.
///
/// Whatever fails here fails later too, so that a run can look at all of its rows before it begins.
/// Audio that is damaged further in is found when it is decoded. The row's place is the caller's to
/// add.
///
/// # Errors
/// A file that cannot be read; a part or channel that it does not have; a stated `duration` that is
/// not the audio's; a clip that is longer than `max_audio_s` or too short for one audio token.
pub fn clip_lengths(row: &Row, max_audio_s: Option<f64>, headers: &Headers) -> Result<Vec<usize>> {
    let lengths = row
        .clips
        .iter()
        .map(|clip| clip_length(clip, max_audio_s, headers))
        .collect::<Result<Vec<usize>>>()?;
    check_stated_sum(row.duration, &row.clips, lengths.iter().sum())?;
    Ok(lengths)
}

fn clip_length(clip: &Clip, max_audio_s: Option<f64>, headers: &Headers) -> Result<usize> {
    let length = length_of(clip, clip.span, headers)?;
    check_length(clip, length, max_audio_s, headers).map_err(|e| e.at(clip.source.name()))?;
    Ok(length)
}

/// Samples of a part of a clip's recording, by its headers.
fn length_of(clip: &Clip, span: Span, headers: &Headers) -> Result<usize> {
    headers.num_samples(&clip.source, span)
}

/// Refuses a clip of `length` samples that is too long, too short, or not as long as the data
/// states.
///
/// # Errors
/// What is wrong with the clip, without its place.
pub fn check_length(
    clip: &Clip,
    length: usize,
    max_audio_s: Option<f64>,
    headers: &Headers,
) -> Result<()> {
    let seconds = seconds_of(length);

    if let Some(longest) = max_audio_s.filter(|&longest| seconds > longest) {
        return Err(Error::input(format!("{seconds:.1} s of audio, `max_audio_s` is {longest}"))
            .hint("nothing is cut silently: split the clip with `start_s` and `end_s`, or raise `max_audio_s`"));
    }

    if num_audio_tokens(num_frames(length)) == 0 {
        return Err(Error::input(format!(
            "{length} samples are too short for one audio token"
        ))
        .hint("remove the row; the shortest clip that the encoder takes is 0.03 s"));
    }

    let Some(stated) = clip.stated_s.filter(|&stated| !agree(stated, seconds)) else {
        return Ok(());
    };
    // Beside a part, some data sets state the length of the whole file.
    let is_of_file = clip.span.is_part() && {
        let whole = Span {
            channel: clip.span.channel,
            ..Span::WHOLE
        };
        agree(stated, seconds_of(length_of(clip, whole, headers)?))
    };

    match is_of_file {
        true => Ok(()),
        false => Err(wrong_duration(stated, seconds)),
    }
}

/// Refuses a row of several clips whose `duration` is not that of all together.
///
/// # Errors
/// The duration that does not fit.
pub fn check_stated_sum(stated: Option<f64>, clips: &[Clip], length: usize) -> Result<()> {
    let seconds = seconds_of(length);
    match stated {
        Some(stated) if clips.len() > 1 && !agree(stated, seconds) => Err(wrong_duration(
            stated, seconds,
        )
        .hint(format!(
            "`duration` beside {} clips is the length of all together; correct it or leave it out",
            clips.len()
        ))),
        _ => Ok(()),
    }
}

fn wrong_duration(stated: f64, found: f64) -> Error {
    Error::input(format!(
        "`duration` says {stated} s, the audio has {found:.3} s"
    ))
    .hint("correct `duration` or leave it out; to use a part of the file, write `offset` (or `start_s`) beside it")
}

/// Seconds of so many samples at [`SAMPLE_RATE`].
pub fn seconds_of(samples: usize) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}

//! Faults of a row's audio: unusable audio, silence, or a difference from the row's fields.

use crate::AudioSource;
use crate::Clip;
use crate::Row;
use crate::check::finding::FindingKind;
use crate::check::finding::Settings;
use crate::check::known::Known;
use crate::check::rows;
use maqam_audio::SAMPLE_RATE;
use maqam_audio::Span;
use maqam_audio::examine;
use maqam_audio::examine::Decoded;
use maqam_audio::examine::Examined;
use maqam_audio::examine::Fault;
use maqam_audio::examine::FaultKind;
use maqam_audio::num_audio_tokens;
use maqam_audio::num_frames;
use maqam_metrics::TaskKind;

/// Largest difference of a stated length from the actual one, in seconds.
pub const STATED_TOLERANCE_S: f64 = 0.1;

/// Peak under which a recording counts as silent: -60 dBFS.
pub const SILENT_PEAK: f32 = 1e-3;

/// Level of the average of all channels, relative to the first, under which they cancel each other:
/// -40 dB.
const CANCELLED: f64 = 1e-2;

/// Share of clipped samples above which there is a finding.
const CLIPPED_SHARE: f64 = 1e-3;

/// Sampling rates that recorders and codecs use, in Hz.
const USUAL_RATES: [u32; 13] = [
    8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400,
    192_000,
];

/// A clip of a row, and the facts of its audio.
pub struct Heard {
    /// Facts, or the reason why there are none.
    pub found: Result<Examined, (FindingKind, String)>,
    /// Length in seconds of the whole recording, if the clip is a part of it and states another
    /// length than that of the part.
    whole_s: Option<f64>,
}

/// Returns whether a stated length agrees with the actual one, both in seconds.
pub fn agree(stated: f64, found: f64) -> bool {
    // A millionth of a second allows for sums of decimals.
    (stated - found).abs() <= STATED_TOLERANCE_S + 1e-6
}

/// Examines the clips of a row.
pub fn listen(row: &Row, decode: bool, known: &Known) -> Vec<Heard> {
    row.clips
        .iter()
        .map(|clip| {
            let found = known.facts(clip, decode, || examined(clip, clip.span, decode));
            let is_other_length = |facts: &Examined| {
                clip.span.is_part() && clip.stated_s.is_some_and(|s| !agree(s, facts.duration_s))
            };
            let whole_s = match &found {
                Ok(facts) if is_other_length(facts) => {
                    let whole = Span {
                        channel: clip.span.channel,
                        ..Span::WHOLE
                    };
                    examined(clip, whole, false)
                        .ok()
                        .map(|facts| facts.duration_s)
                }
                _ => None,
            };
            Heard { found, whole_s }
        })
        .collect()
}

fn examined(clip: &Clip, span: Span, decode: bool) -> Result<Examined, (FindingKind, String)> {
    let found = match &clip.source {
        AudioSource::File(path) => examine::examine(path, span, decode),
        AudioSource::Range {
            file, start, len, ..
        } => {
            let range = *start..start + len;
            examine::examine_range(file, range, &clip.source.name(), span, decode)
        }
        AudioSource::Embedded { bytes, name } => examine::examine_bytes(bytes, name, span, decode),
    };
    found.map_err(|Fault { kind, error }| {
        let kind = match kind {
            FaultKind::Empty => FindingKind::EmptyAudio,
            FaultKind::Span => FindingKind::Span,
            FaultKind::Damaged => FindingKind::Corrupt,
        };
        (kind, error.message().to_owned())
    })
}

/// Returns the faults of a row's audio.
pub fn check(row: &Row, heard: &[Heard], settings: &Settings<'_>) -> Vec<(FindingKind, String)> {
    let mut found = Vec::new();
    for (clip, heard) in row.clips.iter().zip(heard) {
        match &heard.found {
            Ok(facts) => of_clip(clip, facts, heard.whole_s, &mut found),
            Err(fault) => found.push(fault.clone()),
        }
    }

    let lengths: Option<Vec<f64>> = heard
        .iter()
        .map(|heard| heard.found.as_ref().ok().map(|facts| facts.duration_s))
        .collect();
    let Some(lengths) = lengths.filter(|lengths| !lengths.is_empty()) else {
        return found;
    };
    let seconds = lengths.iter().sum();
    if lengths.len() > 1
        && let Some(stated) = row.duration
        && !agree(stated, seconds)
    {
        found.push((FindingKind::Duration, wrong_duration(stated, seconds)));
    }
    found.extend(
        speaking_rate(row, seconds, settings).map(|message| (FindingKind::SpeakingRate, message)),
    );
    found
}

fn of_clip(
    clip: &Clip,
    facts: &Examined,
    whole_s: Option<f64>,
    found: &mut Vec<(FindingKind, String)>,
) {
    let num_samples = (facts.duration_s * f64::from(SAMPLE_RATE)).ceil() as usize;
    if num_audio_tokens(num_frames(num_samples)) == 0 {
        let message = format!(
            "{:.3} s are too short for one audio token",
            facts.duration_s
        );
        found.push((FindingKind::TooShort, message));
    }
    if let Some(stated) = clip.stated_s
        && !agree(stated, facts.duration_s)
        && !whole_s.is_some_and(|whole| agree(stated, whole))
    {
        found.push((
            FindingKind::Duration,
            wrong_duration(stated, facts.duration_s),
        ));
    }
    if !USUAL_RATES.contains(&facts.rate) {
        found.push((
            FindingKind::SampleRate,
            format!("a sampling rate of {} Hz", facts.rate),
        ));
    }
    if let Some(decoded) = &facts.decoded {
        found.extend(silence(decoded).map(|message| (FindingKind::Silent, message)));
        if decoded.clipped_share > CLIPPED_SHARE {
            let percent = 100.0 * decoded.clipped_share;
            let message = format!("{percent:.1} % of the samples stay at full scale");
            found.push((FindingKind::Clipped, message));
        }
    }
}

fn wrong_duration(stated: f64, found: f64) -> String {
    format!("`duration` says {stated} s, the audio has {found:.3} s")
}

fn silence(decoded: &Decoded) -> Option<String> {
    if let Some(first) = decoded.first_channel_rms
        && first > f64::from(SILENT_PEAK)
        && decoded.rms < CANCELLED * first
    {
        return Some(format!(
            "the channels cancel each other: their average is {:.0} dB under the first one",
            20.0 * (first / decoded.rms.max(1e-9)).log10()
        ));
    }
    (decoded.peak < SILENT_PEAK).then(|| match decoded.peak {
        0.0 => "all samples are zero".to_owned(),
        peak => format!("the loudest sample is at {:.0} dBFS", 20.0 * peak.log10()),
    })
}

/// Returns whether a transcript is too long or too short for its audio, in words.
fn speaking_rate(row: &Row, seconds: f64, settings: &Settings<'_>) -> Option<String> {
    let name = row.task.as_deref().or(settings.task);
    let task = name.and_then(|name| settings.tasks.get(name).ok());
    if task.is_some_and(|task| task.kind != TaskKind::Transcribe) || !row.messages.is_empty() {
        return None;
    }
    let letters = rows::num_letters(row.text.as_deref()?);
    let rate = letters as f64 / seconds;
    if letters == 0 || settings.letters_per_s.contains(&rate) {
        return None;
    }
    Some(format!(
        "{letters} letters in {seconds:.2} s, {rate:.1} per second; {} to {} are expected",
        settings.letters_per_s.start(),
        settings.letters_per_s.end()
    ))
}

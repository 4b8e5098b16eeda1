//! Long recordings cut into their stretches of speech, and short ones trimmed, by voice activity.
//! No audio is written: rows get spans.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Map;
use serde_json::Value;

use crate::Clip;
use crate::Row;
use maqam_audio::SAMPLE_RATE;
use maqam_audio::Span;
use maqam_audio::vad::Speech;
use maqam_audio::vad::Vad;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Fields that may hold a transcript with its times, and the field of the text in each of their
/// entries.
const TIMED: [(&str, [&str; 2]); 2] = [("segments", ["text", "word"]), ("words", ["word", "text"])];

/// A part of a transcript with its times, in seconds of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Start, in seconds.
    pub start_s: f64,
    /// End, in seconds.
    pub end_s: f64,
    /// Words between these times.
    pub text: String,
}

/// A part of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Start, in seconds of the file.
    pub start_s: f64,
    /// End, in seconds of the file.
    pub end_s: f64,
    /// Words of the piece, if the transcript has times.
    pub text: Option<String>,
}

/// Result for a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Segmented {
    /// Pieces of the row; one if it was only trimmed.
    Rows(Vec<Row>),
    /// There is no speech.
    NoSpeech,
    /// The row has no audio, or several clips, and stays unchanged.
    Untouched,
}

/// The transcript of a row with its times, from its field `segments` or `words`: a list of
/// `{start, end, text}`, in seconds of the file.
///
/// # Errors
/// An entry without times or text, or one that ends before it begins.
pub fn timed_text(extra: &Map<String, Value>) -> Result<Option<Vec<Timed>>> {
    let found = TIMED
        .iter()
        .find_map(|(field, texts)| Some((field, texts, extra.get(*field)?.as_array()?)));
    let Some((field, texts, entries)) = found else {
        return Ok(None);
    };
    let of = |(i, entry): (usize, &Value)| {
        let number = |name: &str| entry.get(name).and_then(Value::as_f64);
        let text = texts.iter().find_map(|name| entry.get(*name)?.as_str());
        match (number("start"), number("end"), text) {
            (Some(start_s), Some(end_s), Some(text)) if start_s <= end_s => Ok(Timed {
                start_s,
                end_s,
                text: text.trim().to_owned(),
            }),
            _ => Err(Error::input(format!("`{field}[{i}]` is {entry}")).hint(format!(
                "write {{\"start\": 0.5, \"end\": 1.5, \"{}\": \"...\"}}, in seconds of the file",
                texts[0]
            ))),
        }
    };
    entries
        .iter()
        .enumerate()
        .map(of)
        .collect::<Result<_>>()
        .map(Some)
}

/// Assigns to each stretch of speech the parts of the transcript inside it. A stretch is widened to
/// hold all of its parts, so that no word is cut. Stretches without a part are left out.
pub fn with_text(speech: &[Range<f64>], timed: &[Timed]) -> Vec<Piece> {
    let overlap = |piece: &Range<f64>, part: &Timed| {
        piece.end.min(part.end_s) - piece.start.max(part.start_s)
    };
    let mut parts_of: Vec<Vec<&Timed>> = vec![Vec::new(); speech.len()];
    for part in timed.iter().filter(|part| !part.text.is_empty()) {
        // Where they do not overlap, the least gap is the greatest overlap.
        let best = (0..speech.len()).max_by(|&a, &b| {
            let a = overlap(&speech[a], part);
            let b = overlap(&speech[b], part);
            a.total_cmp(&b)
        });
        if let Some(best) = best {
            parts_of[best].push(part);
        }
    }
    speech
        .iter()
        .zip(parts_of)
        .filter(|(_, parts)| !parts.is_empty())
        .map(|(piece, parts)| Piece {
            start_s: parts
                .iter()
                .fold(piece.start, |start, part| start.min(part.start_s)),
            end_s: parts
                .iter()
                .fold(piece.end, |end, part| end.max(part.end_s)),
            text: Some(
                parts
                    .iter()
                    .map(|part| part.text.as_str())
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
        })
        .collect()
}

/// Divides a row into its stretches of speech, or trims it to the speech in it.
///
/// A row is divided unless `trims`: by its transcript's times if it has them, and freely if it has
/// no text. A row with a text without times is trimmed, because the places of its words are
/// unknown. The pieces of a row have its label and speaker, and belong to one group.
///
/// # Errors
/// Audio that cannot be read; impossible times.
pub fn segment(row: &Row, speech: &Speech, trims: bool) -> Result<Segmented> {
    let [clip] = row.clips.as_slice() else {
        return Ok(Segmented::Untouched);
    };
    let samples = clip.source.samples(clip.span)?;
    let probabilities = Vad::get()?.probabilities(&samples);
    let offset_s = clip.span.start_s.unwrap_or(0.0);
    let seconds = |samples: usize| offset_s + samples as f64 / f64::from(SAMPLE_RATE);
    let found: Vec<Range<f64>> = speech
        .segments(&probabilities, samples.len())
        .into_iter()
        .map(|stretch| seconds(stretch.start)..seconds(stretch.end))
        .collect();
    let (Some(first), Some(last)) = (found.first(), found.last()) else {
        return Ok(Segmented::NoSpeech);
    };

    let extra = row.extra_fields();
    let timed = timed_text(&extra)?;
    let has_text = [&row.text, &row.summary, &row.target]
        .into_iter()
        .any(Option::is_some)
        || !row.messages.is_empty();
    let pieces = match timed {
        Some(timed) if !trims => with_text(&found, &timed),
        _ if trims || has_text => vec![Piece {
            start_s: first.start,
            end_s: last.end,
            text: None,
        }],
        _ => found
            .iter()
            .map(|stretch| Piece {
                start_s: stretch.start,
                end_s: stretch.end,
                text: None,
            })
            .collect(),
    };
    let is_divided = pieces.len() > 1;
    Ok(Segmented::Rows(
        pieces
            .into_iter()
            .map(|piece| of_piece(row, clip, &extra, piece, is_divided))
            .collect(),
    ))
}

/// A row of a part of another's audio.
fn of_piece(
    row: &Row,
    clip: &Clip,
    extra: &Map<String, Value>,
    piece: Piece,
    is_divided: bool,
) -> Row {
    let millisecond = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    let start_s = millisecond(piece.start_s);
    let end_s = millisecond(piece.end_s);
    let mut part = row.clone();
    part.clips = vec![Clip {
        span: Span {
            start_s: Some(start_s),
            end_s: Some(end_s),
            channel: clip.span.channel,
        },
        stated_s: Some(millisecond(end_s - start_s)),
        source: clip.source.clone(),
    }];
    part.duration = part.clips[0].stated_s;
    if is_divided {
        part.id = format!("{}_{:.0}-{:.0}", row.id, start_s * 1000.0, end_s * 1000.0).into();
        part.group.get_or_insert_with(|| Arc::from(&*row.id));
    }
    if let Some(text) = piece.text {
        part.text = Some(text.into());
        // The times of the whole transcript are those of the old row.
        let kept = extra
            .iter()
            .filter(|(name, _)| TIMED.iter().all(|(field, _)| field != name));
        let kept: Map<String, Value> = kept
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        part.extra = (!kept.is_empty()).then(|| Value::Object(kept).to_string().into());
    }
    part
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::OnBadRow;
    use crate::read_manifest;

    fn timed(parts: &[(f64, f64, &str)]) -> Vec<Timed> {
        let part = |&(start_s, end_s, text): &(f64, f64, &str)| Timed {
            start_s,
            end_s,
            text: text.to_owned(),
        };
        parts.iter().map(part).collect()
    }

    #[test]
    fn words_go_to_the_segment_of_their_times() {
        let speech = [1.0..3.0, 4.0..6.0, 8.0..9.0];
        let words = timed(&[
            (0.9, 1.5, "one"),
            (2.5, 3.2, "two"),
            (3.4, 4.6, "three"),
            (5.0, 5.5, "four"),
            (6.1, 6.3, "five"),
        ]);
        let found = with_text(&speech, &words);
        let expected = [(0.9, 3.2, "one two"), (3.4, 6.3, "three four five")];
        assert_eq!(found.len(), 2);
        for (piece, (start_s, end_s, text)) in found.iter().zip(expected) {
            assert_eq!(
                (piece.start_s, piece.end_s, piece.text.as_deref()),
                (start_s, end_s, Some(text))
            );
        }
    }

    #[test]
    fn times_are_read_or_refused() {
        let read = |text: &str| {
            timed_text(
                serde_json::from_str::<Value>(text)
                    .unwrap()
                    .as_object()
                    .unwrap(),
            )
        };
        let found = read(r#"{"segments": [{"start": 0, "end": 1.5, "text": " hello "}]}"#).unwrap();
        assert_eq!(found, Some(timed(&[(0.0, 1.5, "hello")])));
        let found = read(r#"{"words": [{"start": 0, "end": 1, "word": "a"}]}"#).unwrap();
        assert_eq!(found, Some(timed(&[(0.0, 1.0, "a")])));
        assert_eq!(read(r#"{"segments": "two"}"#).unwrap(), None);
        let error = read(r#"{"segments": [{"start": 2, "end": 1, "text": "x"}]}"#).unwrap_err();
        assert!(error.to_string().contains("`segments[0]`"), "{error}");
    }

    /// Rows over a recording: half a second of silence, a1 (3.16 s), 1.5 s of silence, a3 (1.87 s),
    /// half a second of silence.
    fn rows(dir: &Path, fields: &str) -> Row {
        let clip = |name: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/audio");
            maqam_audio::read(&folder.join(name), Span::WHOLE).unwrap()
        };
        let samples = [
            vec![0.0; 8_000],
            clip("a1.wav"),
            vec![0.0; 24_000],
            clip("a3.wav"),
            vec![0.0; 8_000],
        ]
        .concat();
        let data = (samples.len() * 2) as u32;
        let mut bytes = b"RIFF".to_vec();
        bytes.extend((36 + data).to_le_bytes());
        bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
        bytes.extend(16_000u32.to_le_bytes());
        bytes.extend(32_000u32.to_le_bytes());
        bytes.extend(b"\x02\0\x10\0data");
        bytes.extend(data.to_le_bytes());
        bytes.extend(
            samples
                .iter()
                .flat_map(|x| ((x * 32_767.0) as i16).to_le_bytes()),
        );
        std::fs::write(dir.join("long.wav"), bytes).unwrap();
        let path = dir.join("rows.jsonl");
        std::fs::write(
            &path,
            format!(r#"{{"id": "x", "audio": "long.wav", {fields}}}"#),
        )
        .unwrap();
        let manifest = read_manifest(&path, None, OnBadRow::Error).unwrap();
        manifest.rows.into_iter().next().unwrap()
    }

    fn spans(segmented: Segmented) -> Vec<(String, f64, f64, Option<String>)> {
        let Segmented::Rows(rows) = segmented else {
            panic!("{segmented:?}")
        };
        rows.into_iter()
            .map(|row| {
                let span = row.clips[0].span;
                (
                    row.id.to_string(),
                    span.start_s.unwrap(),
                    span.end_s.unwrap(),
                    row.text.map(String::from),
                )
            })
            .collect()
    }

    #[test]
    fn rows_without_text_are_divided() {
        let dir = tempfile::tempdir().unwrap();
        let row = rows(dir.path(), r#""label": "MSA""#);
        let found = segment(&row, &Speech::default(), false).unwrap();
        let Segmented::Rows(parts) = &found else {
            panic!()
        };
        assert!(
            parts
                .iter()
                .all(|part| part.label.as_deref() == Some("MSA")
                    && part.group.as_deref() == Some("x"))
        );
        let found = spans(found);
        // The clips begin with speech and end with up to 0.4 s of silence.
        let expected = [(0.5, 3.66), (5.16, 7.03)];
        assert_eq!(found.len(), 2, "{found:?}");
        for ((id, start_s, end_s, _), (from, to)) in found.iter().zip(expected) {
            assert!((start_s - from).abs() < 0.1, "{found:?}");
            assert!((to - 0.4..to + 0.05).contains(end_s), "{found:?}");
            assert!(id.starts_with("x_"), "{id}");
        }
    }

    #[test]
    fn text_without_times_is_never_divided() {
        let dir = tempfile::tempdir().unwrap();
        let row = rows(dir.path(), r#""text": "all of it""#);
        let found = spans(segment(&row, &Speech::default(), false).unwrap());
        assert_eq!(
            (found.len(), found[0].0.as_str(), found[0].3.as_deref()),
            (1, "x", Some("all of it"))
        );
        assert!(found[0].1 > 0.3 && found[0].2 < 7.3, "{found:?}");
    }

    #[test]
    fn text_with_times_is_divided_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let fields = r#""text": "one two", "note": 1, "segments": [{"start": 0.6, "end": 3.5, "text": "one"}, {"start": 5.2, "end": 7.0, "text": "two"}]"#;
        let row = rows(dir.path(), fields);
        let found = segment(&row, &Speech::default(), false).unwrap();
        let Segmented::Rows(parts) = &found else {
            panic!()
        };
        assert!(parts.iter().all(|part| part.extra_fields().len() == 1));
        let texts: Vec<Option<String>> = spans(found).into_iter().map(|(.., text)| text).collect();
        assert_eq!(texts, [Some("one".to_owned()), Some("two".to_owned())]);
        assert_eq!(
            spans(segment(&row, &Speech::default(), true).unwrap()).len(),
            1
        );
    }
}

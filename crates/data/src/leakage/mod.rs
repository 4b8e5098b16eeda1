//! Leakage: rows that are in training and in evaluation, or that share a recording, a speaker or a
//! group across the two.
//!
//! Two lists of facts are compared here. `check` compares rows and decides what is an error,
//! `contents` finds out which files are equal.

mod check;
mod contents;

use std::collections::HashMap;

pub use check::Allowed;
pub use check::Evaluated;
pub use check::NONE;
pub use check::Training;
pub use check::check;

use maqam_base::error::Error;

/// What two rows may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SharedKind {
    /// The id that both rows say.
    Id,
    /// Audio: the same contents of a file, in spans that overlap.
    Audio,
    /// Who speaks.
    Speaker,
    /// What must not be split apart: a programme, a document.
    Group,
    /// What is said or answered, word for word. Never an error by itself.
    Text,
}

impl SharedKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Id,
        Self::Audio,
        Self::Speaker,
        Self::Group,
        Self::Text,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Audio => "audio",
            Self::Speaker => "speaker",
            Self::Group => "group",
            Self::Text => "text",
        }
    }
}

/// A stretch of audio, by what is in its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heard {
    /// BLAKE3 of the file's contents.
    pub content: [u8; 32],
    /// Where it begins, in seconds.
    pub start_s: f64,
    /// Where it ends, in seconds; infinite for the file's end.
    pub end_s: f64,
}

/// What is compared of a row.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// Its id, where the data says one: a line number names no row of another file.
    pub id: Option<&'a str>,
    /// Who speaks.
    pub speaker: Option<&'a str>,
    /// What it must not be split from.
    pub group: Option<&'a str>,
    /// The audio.
    pub audio: Vec<Heard>,
    /// What is said or answered, where it is long enough to tell rows apart.
    pub text: Option<&'a str>,
}

/// One kind of leakage that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// What is shared.
    pub kind: SharedKind,
    /// The first pair: places in the two lists.
    pub training: usize,
    /// Its place in the evaluation's list.
    pub evaluation: usize,
    /// Rows of the evaluation that share this with any row of the training.
    pub num_rows: usize,
}

/// Everything that rows of the training share with rows of the evaluation, kind by kind; each with
/// its first row in the evaluation's order and that row's first partner in the training's.
pub fn find<'a>(training: &[Facts<'a>], evaluation: &[Facts<'a>]) -> Vec<Leak> {
    SharedKind::ALL
        .into_iter()
        .filter_map(|kind| of_kind(kind, training, evaluation))
        .collect()
}

fn of_kind<'a>(kind: SharedKind, training: &[Facts<'a>], evaluation: &[Facts<'a>]) -> Option<Leak> {
    let pairs: Vec<(usize, usize)> = match kind {
        SharedKind::Audio => pairs_by_audio(training, evaluation),
        _ => pairs_by_name(training, evaluation, |facts| match kind {
            SharedKind::Id => facts.id,
            SharedKind::Speaker => facts.speaker,
            SharedKind::Text => facts.text,
            SharedKind::Audio | SharedKind::Group => facts.group,
        }),
    };
    let &(training, evaluation) = pairs.first()?;
    Some(Leak {
        kind,
        training,
        evaluation,
        num_rows: pairs.len(),
    })
}

/// For each row of the evaluation that has one its first partner.
fn pairs_by_name<'a>(
    training: &[Facts<'a>],
    evaluation: &[Facts<'a>],
    name: impl Fn(&Facts<'a>) -> Option<&'a str>,
) -> Vec<(usize, usize)> {
    let mut first: HashMap<&str, Option<usize>> = evaluation
        .iter()
        .filter_map(&name)
        .map(|name| (name, None))
        .collect();
    for (i, name) in training
        .iter()
        .enumerate()
        .filter_map(|(i, facts)| Some((i, name(facts)?)))
    {
        first
            .entry(name)
            .and_modify(|first| *first = first.or(Some(i)));
    }
    let partner = |facts: &Facts<'a>| first.get(name(facts)?).copied().flatten();
    evaluation
        .iter()
        .enumerate()
        .filter_map(|(i, facts)| Some((partner(facts)?, i)))
        .collect()
}

fn pairs_by_audio(training: &[Facts<'_>], evaluation: &[Facts<'_>]) -> Vec<(usize, usize)> {
    let mut by_content: HashMap<[u8; 32], Vec<(usize, Heard)>> = HashMap::new();
    for (i, heard) in training
        .iter()
        .enumerate()
        .flat_map(|(i, facts)| facts.audio.iter().map(move |heard| (i, heard)))
    {
        by_content
            .entry(heard.content)
            .or_default()
            .push((i, *heard));
    }
    let overlaps = |a: &Heard, b: &Heard| a.start_s < b.end_s && b.start_s < a.end_s;
    let partner = |heard: &Heard| {
        by_content
            .get(&heard.content)?
            .iter()
            .find(|(_, other)| overlaps(heard, other))
            .map(|(i, _)| *i)
    };
    let first = |facts: &Facts<'_>| facts.audio.iter().filter_map(partner).min();
    evaluation
        .iter()
        .enumerate()
        .filter_map(|(i, facts)| Some((first(facts)?, i)))
        .collect()
}

/// The error that names all kinds but those that are allowed, each with its two rows; `None` where
/// nothing is left.
pub fn refusal(
    leaks: &[Leak],
    allowed: &[SharedKind],
    name: impl Fn(&Leak) -> (String, String),
) -> Option<Error> {
    let refused: Vec<&Leak> = leaks
        .iter()
        .filter(|leak| leak.kind != SharedKind::Text && !allowed.contains(&leak.kind))
        .collect();
    refused.first()?;
    let line = |leak: &&Leak| {
        let (training, evaluation) = name(leak);
        let more = match leak.num_rows - 1 {
            0 => String::new(),
            1 => "; so does one more row of the suite".to_owned(),
            more => format!("; so do {more} more rows of the suite"),
        };
        format!(
            "\n  {evaluation} shares {} with {training}{more}",
            shared(leak.kind)
        )
    };
    let message = format!(
        "the suite judges what is trained on:{}",
        refused.iter().map(line).collect::<String>()
    );
    let kinds: Vec<String> = refused
        .iter()
        .map(|leak| format!("`--allow {}`", leak.kind.name()))
        .collect();

    Some(Error::input(message).hint(format!(
        "take the rows out of one side; where it is meant, {} lets it pass, or `--allow-leakage` all of it",
        kinds.join(", ")
    )))
}

/// What two rows share, as a message says it.
fn shared(kind: SharedKind) -> String {
    match kind {
        SharedKind::Audio => "audio".to_owned(),
        _ => format!("its {}", kind.name()),
    }
}

/// What a user should know of leakage that is no error, in a suite of so many rows.
fn note(leak: &Leak, num_rows: usize, (training, evaluation): (String, String)) -> String {
    let rows = match leak.num_rows {
        1 => format!("1 of the suite's {num_rows} rows shares"),
        found => format!("{found} of the suite's {num_rows} rows share"),
    };
    let what = match leak.kind {
        SharedKind::Audio => "audio",
        kind => kind.name(),
    };
    format!("{rows} {what} with training rows: {evaluation} with {training}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(content: u8, start_s: f64, end_s: f64) -> Vec<Heard> {
        vec![Heard {
            content: [content; 32],
            start_s,
            end_s,
        }]
    }

    fn rows() -> (Vec<Facts<'static>>, Vec<Facts<'static>>) {
        let facts = |id, speaker, group, audio| Facts {
            id: Some(id),
            speaker: Some(speaker),
            group: Some(group),
            audio,
            text: None,
        };
        let training = vec![
            Facts {
                audio: heard(1, 0.0, 2.0),
                ..Facts::default()
            },
            facts("a", "adel", "news", heard(1, 2.0, 4.0)),
            facts("b", "basma", "talk", heard(2, 0.0, f64::INFINITY)),
            facts("c", "adel", "news", heard(1, 1.0, 3.0)),
        ];
        let evaluation = vec![
            facts("x", "omar", "film", heard(3, 0.0, f64::INFINITY)),
            facts("b", "adel", "talk", heard(1, 3.5, 9.0)),
            facts("a", "adel", "film", heard(2, 5.0, 6.0)),
            Facts::default(),
        ];
        (training, evaluation)
    }

    #[test]
    fn each_kind_is_found_with_its_first_pair_and_counted() {
        let (training, evaluation) = rows();
        let found: Vec<_> = find(&training, &evaluation)
            .into_iter()
            .map(|leak| (leak.kind, leak.training, leak.evaluation, leak.num_rows))
            .collect();
        assert_eq!(
            found,
            [
                (SharedKind::Id, 2, 1, 2),
                (SharedKind::Audio, 1, 1, 2),
                (SharedKind::Speaker, 1, 1, 2),
                (SharedKind::Group, 2, 1, 1)
            ]
        );
        assert_eq!(find(&training, &evaluation[..1]), []);
        assert_eq!(find(&[], &evaluation), []);
        assert_eq!(
            find(&[Facts::default()], &[Facts::default()]),
            [],
            "what is not said is not shared"
        );
    }

    #[test]
    fn a_text_alone_is_no_error() {
        let of = |text| Facts {
            text,
            ..Facts::default()
        };
        let training = [of(None), of(Some("one two three four five"))];
        let evaluation = [of(Some("one two three four five")), of(None)];
        let leaks = find(&training, &evaluation);
        assert_eq!((leaks.len(), leaks[0].kind), (1, SharedKind::Text));
        let name = |_: &Leak| ("t1".to_owned(), "e0,".to_owned());
        assert!(refusal(&leaks, &[], name).is_none());
        assert_eq!(
            note(&leaks[0], 2, name(&leaks[0])),
            "1 of the suite's 2 rows shares text with training rows: e0, with t1"
        );
    }

    #[test]
    fn spans_of_one_file_leak_where_they_overlap() {
        let leaks = |a: (f64, f64), b: (f64, f64)| {
            let of = |(start_s, end_s)| {
                vec![Facts {
                    audio: heard(7, start_s, end_s),
                    ..Facts::default()
                }]
            };
            !find(&of(a), &of(b)).is_empty()
        };
        assert!(
            leaks((0.0, 2.0), (1.9, 3.0))
                && leaks((1.9, 3.0), (0.0, 2.0))
                && leaks((0.0, f64::INFINITY), (5.0, 6.0))
        );
        assert!(!leaks((0.0, 2.0), (2.0, 3.0)) && !leaks((2.0, f64::INFINITY), (0.0, 2.0)));
    }

    #[test]
    fn the_error_names_all_that_is_not_allowed() {
        let (training, evaluation) = rows();
        let leaks = find(&training, &evaluation);
        let name = |leak: &Leak| {
            (
                format!("t{}", leak.training),
                format!("e{}", leak.evaluation),
            )
        };
        let error = refusal(&leaks, &[SharedKind::Group], name).unwrap();
        assert_eq!(error.exit_code(), 2);
        let expected = "the suite judges what is trained on:\n  e1 shares its id with t2; so does one more row of the suite\n  \
            e1 shares audio with t1; so does one more row of the suite\n  e1 shares its speaker with t1; so does one more row of the suite\n\
            hint: take the rows out of one side; where it is meant, `--allow id`, `--allow audio`, `--allow speaker` lets it pass, or `--allow-leakage` all of it";
        assert_eq!(error.to_string(), expected);
        assert!(refusal(&leaks, &SharedKind::ALL, name).is_none());
    }
}

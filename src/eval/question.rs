//! What a model is asked about a set: an answer to every example, and how likely it holds what
//! could be answered.

use std::collections::BTreeMap;

use crate::data::Message;
use crate::data::Role;
use crate::error::Error;
use crate::error::Result;
use crate::eval::prediction::predicted;
use crate::eval::suite::Set;
use crate::featurise::Loader;
use crate::records::answers::Found;
use crate::records::answers::Likelihood;
use crate::records::prediction::Prediction;
use crate::task::Example;
use crate::task::Mode;
use crate::task::Task;

/// Something to ask a model about an example.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// What it is about.
    pub example: &'a Example,
    /// What is wanted.
    pub wanted: Wanted,
}

/// What is wanted of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// An answer of at most so many tokens.
    Answer {
        /// The limit.
        max_new_tokens: usize,
    },
    /// The log-likelihood of what the assistant says in each of these conversations, all over the
    /// example's clips.
    Likelihoods(Vec<Vec<Message>>),
}

/// The questions of a set: for each example, in order, its loss and its labels where the set wants
/// them, and its answer last.
pub fn questions<'a>(set: &'a Set) -> Vec<Question<'a>> {
    let mut questions = Vec::new();
    for example in &set.examples {
        let mut ask = |wanted| questions.push(Question { example, wanted });
        if set.wants_loss() {
            ask(Wanted::Likelihoods(vec![example.messages.clone()]));
        }
        if set.likelihood {
            ask(Wanted::Likelihoods(labelled(set, example)));
        }
        ask(Wanted::Answer {
            max_new_tokens: set.task.answer.max_new_tokens,
        });
    }
    questions
}

/// The example's conversation ending in each label of the inventory, nothing but this last answer
/// counted.
fn labelled(set: &Set, example: &Example) -> Vec<Vec<Message>> {
    let (asked, said) = match example.messages.split_last() {
        Some((last, asked)) if last.role == Role::Assistant => (asked, Some(last.content.as_str())),
        _ => (example.messages.as_slice(), None),
    };
    let asked: Vec<Message> = asked
        .iter()
        .map(|message| Message {
            loss: false,
            ..message.clone()
        })
        .collect();
    let ending = |label: String| {
        asked
            .iter()
            .cloned()
            .chain([Message::new(Role::Assistant, label)])
            .collect()
    };
    written_labels(set, example, said)
        .into_iter()
        .map(ending)
        .collect()
}

/// The labels as they are written to answer this example. A conversation of the row's own may speak
/// another language than the row says, so where its answer is a label in some language, all labels
/// are written in that one.
fn written_labels(set: &Set, example: &Example, said: Option<&str>) -> Vec<String> {
    let in_language = |language: &str| set.task.written_labels(set.wording, language);
    let place = set
        .task
        .labels
        .iter()
        .position(|label| Some(&label.name) == example.label.as_ref());
    let expected = in_language(example.asked_in());
    let (Some(place), Some(said)) = (place, said) else {
        return expected;
    };
    let names = || {
        set.task
            .labels
            .iter()
            .map(|label| label.name.clone())
            .collect()
    };
    let others = set.task.labels[place]
        .words
        .keys()
        .map(|language| in_language(language));
    std::iter::once(expected.clone())
        .chain(others)
        .chain([names()])
        .find(|labels: &Vec<String>| labels[place] == said)
        .unwrap_or(expected)
}

/// The predictions of a set from what was found of its [`questions`], in their order.
///
/// # Errors
/// Findings that do not belong to these questions, which is a fault of ours.
pub fn predictions(set: &Set, loader: &Loader, found: Vec<Found>) -> Result<Vec<Prediction>> {
    let ends = loader.codec().ids_that_end();
    let mut found = found.into_iter();
    let mut predictions = Vec::with_capacity(set.examples.len());
    for example in &set.examples {
        let mut loss = None;
        if set.wants_loss() {
            loss = likelihoods(found.next())?.first().copied();
        }
        let mut by_label = None;
        if set.likelihood {
            by_label = Some(means_by_label(&set.task, likelihoods(found.next())?));
        }
        let tokens = tokens(found.next())?;

        let text = loader.codec().decode(&tokens);
        predictions.push(Prediction {
            hit_limit: !tokens.last().is_some_and(|last| ends.contains(last)),
            target_tokens: loss
                .map(|found| found.tokens)
                .or_else(|| target_tokens(loader, example)),
            loss: loss.map(|found| -found.mean()),
            likelihoods: by_label,
            ..predicted(set, example, text)?.with_tokens(tokens)
        });
    }
    Ok(predictions)
}

/// Mean log-likelihood of each label's answer, in nats per token; `of_all` is in the order of the
/// inventory.
fn means_by_label(task: &Task, of_all: Vec<Likelihood>) -> BTreeMap<String, f64> {
    let labels = task.labels.iter().zip(of_all);
    labels
        .map(|(label, found)| (label.name.clone(), found.mean()))
        .collect()
}

/// Number of tokens of what should be said; `None` where the example does not know.
pub fn target_tokens(loader: &Loader, example: &Example) -> Option<usize> {
    // How long a clip is changes nothing about the tokens after it.
    let encoded = loader
        .codec()
        .encode_example(example, &vec![1; example.clips.len()], Mode::Train)
        .ok()?;
    Some(encoded.targets.iter().map(ExactSizeIterator::len).sum())
}

fn likelihoods(found: Option<Found>) -> Result<Vec<Likelihood>> {
    match found {
        Some(Found::Likelihoods(of_all)) => Ok(of_all),
        _ => Err(Error::bug("likelihoods were asked for and not found")),
    }
}

fn tokens(found: Option<Found>) -> Result<Vec<u32>> {
    match found {
        Some(Found::Tokens(tokens)) => Ok(tokens),
        _ => Err(Error::bug("an answer was asked for and not found")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::suite::Suite;
    use crate::task::Tasks;

    fn suite(rows: &str, more: &str) -> Suite {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("m.jsonl"), rows).unwrap();
        std::fs::write(
            path("s.yaml"),
            format!(
                "role: dev\nsets: [{{name: a, manifest: {}, task: dialect{more}}}]\n",
                path("m.jsonl").display()
            ),
        )
        .unwrap();
        Suite::load(&path("s.yaml"), &Tasks::load(None).unwrap()).unwrap()
    }

    /// What the assistant says at the end of each conversation of the first question that asks for
    /// labels.
    fn endings(set: &Set) -> Vec<String> {
        let of_labels = questions(set)
            .into_iter()
            .find_map(|question| match question.wanted {
                Wanted::Likelihoods(of_all) if of_all.len() > 1 => Some(of_all),
                _ => None,
            });
        of_labels
            .unwrap()
            .iter()
            .map(|messages| messages.last().unwrap().content.clone())
            .collect()
    }

    #[test]
    fn each_example_is_asked_what_its_set_wants_and_its_answer_last() {
        let rows = "{\"text\": \"t\", \"label\": \"EGY\"}\n{\"text\": \"t\", \"label\": \"MSA\"}\n";
        let kinds = |more: &str| {
            let suite = suite(rows, more);
            let kind = |question: &Question| match &question.wanted {
                Wanted::Answer { .. } => 0,
                Wanted::Likelihoods(of_all) => of_all.len(),
            };
            questions(&suite.sets[0])
                .iter()
                .map(kind)
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds(", metrics: [uar]"), [0, 0]);
        assert_eq!(kinds(""), [1, 0, 1, 0]);
        assert_eq!(kinds(", likelihood: true"), [1, 5, 0, 1, 5, 0]);
    }

    #[test]
    fn labels_are_spoken_as_the_question_would_have_them() {
        let arabic = suite(
            "{\"text\": \"t\", \"label\": \"EGY\", \"language\": \"ar\"}\n",
            ", likelihood: true",
        );
        let tasks = Tasks::load(None).unwrap();
        let words = |language: &str| {
            let labels = &tasks.get("dialect").unwrap().labels;
            labels
                .iter()
                .map(|label| label.words.get(language).unwrap_or(&label.name).clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(endings(&arabic.sets[0]), words("ar"));
        // A conversation of the row's own: in a language that the row does not say, and with an
        // earlier turn that is not to be counted.
        let turns = |answer: &str| {
            format!(
                "{{\"label\": \"EGY\", \"messages\": [{{\"role\": \"user\", \"content\": \"a\"}}, {{\"role\": \"assistant\", \"content\": \"b\"}}, {{\"role\": \
                 \"user\", \"content\": \"c\"}}, {{\"role\": \"assistant\", \"content\": \"{answer}\"}}]}}\n"
            )
        };
        for (answer, expected) in [
            (words("ar")[0].as_str(), words("ar")),
            ("EGY", words("name")),
            ("no label", words("en")),
        ] {
            let suite = suite(&turns(answer), ", likelihood: true");
            assert_eq!(endings(&suite.sets[0]), expected, "{answer}");
            let Wanted::Likelihoods(of_all) = &questions(&suite.sets[0])[1].wanted else {
                panic!()
            };
            assert!(of_all.iter().all(|messages| {
                messages
                    .iter()
                    .map(|message| message.loss)
                    .collect::<Vec<_>>()
                    == [false, false, false, true]
            }));
        }
    }
}

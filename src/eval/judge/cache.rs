//! What judges answered before, by content: the same question to the same model is never asked
//! twice.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use crate::endpoint::request::Endpoint;
use crate::endpoint::request::Usage;
use crate::error::Error;
use crate::error::Result;
use crate::eval::judge::answer::Verdict;
use crate::eval::judge::rubric::Item;
use crate::eval::judge::rubric::Rubric;
use crate::files;
use crate::files::AppendLog;
use crate::jsonl;
use crate::jsonl::LastLine;

/// What one verdict took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// The tokens of all answers that it took; none where the endpoint did not say.
    pub usage: Option<Usage>,
}

/// One line of the cache.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    grades: Vec<i64>,
    reason: Option<String>,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// A file of verdicts that only grows.
pub struct Cache {
    known: HashMap<String, Judged>,
    log: AppendLog,
}

impl Cache {
    /// Opens the file, making it where it is missing. Half a line at its end, which a crash leaves,
    /// is cut off.
    ///
    /// # Errors
    /// A line that is no verdict.
    pub fn open(path: &Path) -> Result<Self> {
        let mut known = HashMap::new();
        if path.is_file() {
            let whole = jsonl::each_line(path, LastLine::Cut, |_, line| {
                let read: Line = serde_json::from_slice(line).map_err(|e| {
                    Error::input("not a verdict")
                        .caused_by(e)
                        .hint("is this a file of another kind? give another --cache")
                })?;
                known.insert(read.key.clone(), judged(read));
                Ok(())
            })?;
            files::truncate(path, whole)?;
        }
        Ok(Self {
            known,
            log: AppendLog::open(path)?,
        })
    }

    /// The verdict of a key.
    pub fn get(&self, key: &str) -> Option<&Judged> {
        self.known.get(key)
    }

    /// Number of verdicts.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Adds a verdict, in the file first.
    ///
    /// # Errors
    /// The disk's.
    pub fn add(&mut self, key: &str, judged: Judged) -> Result<()> {
        let line = Line {
            key: key.to_owned(),
            grades: judged.verdict.grades.clone(),
            reason: judged.verdict.reason.clone(),
            prompt_tokens: judged.usage.map(|usage| usage.prompt_tokens),
            completion_tokens: judged.usage.map(|usage| usage.completion_tokens),
        };
        self.log
            .line(&serde_json::to_string(&line).map_err(Error::bug_from)?)?;
        self.known.insert(key.to_owned(), judged);
        Ok(())
    }
}

fn judged(line: Line) -> Judged {
    let usage = match (line.prompt_tokens, line.completion_tokens) {
        (Some(prompt_tokens), Some(completion_tokens)) => Some(Usage {
            prompt_tokens,
            completion_tokens,
        }),
        _ => None,
    };
    Judged {
        verdict: Verdict {
            grades: line.grades,
            reason: line.reason,
        },
        usage,
    }
}

/// The key of a question: BLAKE3 of everything that the answer depends on (endpoint, model, rubric,
/// texts).
pub fn key(endpoint: &Endpoint, rubric: &Rubric, item: &Item) -> String {
    // JSON keeps the parts apart, whatever they hold.
    let question = json!([
        endpoint.url(),
        endpoint.model(),
        rubric.identity(),
        item.source,
        item.summary,
        item.reference
    ]);
    blake3::hash(question.to_string().as_bytes())
        .to_hex()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(grade: i64) -> Judged {
        Judged {
            verdict: Verdict {
                grades: vec![grade],
                reason: Some("لأن".into()),
            },
            usage: Some(Usage {
                prompt_tokens: 10,
                completion_tokens: 2,
            }),
        }
    }

    #[test]
    fn what_was_added_is_there_again_and_half_a_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.jsonl");
        let mut cache = Cache::open(&path).unwrap();
        assert!(cache.is_empty());
        cache.add("a", some(1)).unwrap();
        cache
            .add(
                "b",
                Judged {
                    usage: None,
                    ..some(2)
                },
            )
            .unwrap();
        drop(cache);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"key\": \"c")).unwrap();
        let mut cache = Cache::open(&path).unwrap();
        assert_eq!(
            (cache.len(), cache.get("a"), cache.get("b").unwrap().usage),
            (2, Some(&some(1)), None)
        );
        cache.add("c", some(3)).unwrap();
        assert_eq!(Cache::open(&path).unwrap().get("c"), Some(&some(3)));
    }

    #[test]
    fn another_file_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions.jsonl");
        std::fs::write(&path, "{\"id\": \"a\"}\n").unwrap();
        assert!(
            Cache::open(&path)
                .err()
                .unwrap()
                .to_string()
                .contains("predictions.jsonl:1: not a verdict")
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"id\": \"a\"}\n");
    }

    #[test]
    fn a_key_tells_everything_apart_that_an_answer_depends_on() {
        let rubric = Rubric::load(None).unwrap();
        let endpoint = |url: &str, model: &str| {
            Endpoint::new(url, model, None, "K", std::time::Duration::from_secs(1)).unwrap()
        };
        let item = |source: &str, summary: &str| Item {
            id: "a".into(),
            source: source.into(),
            summary: summary.into(),
            reference: None,
        };
        let other_rubric = Rubric {
            repair: "x {fault}".into(),
            ..rubric.clone()
        };
        let keys = [
            key(&endpoint("http://a/v1", "m"), &rubric, &item("s", "t")),
            key(&endpoint("http://b/v1", "m"), &rubric, &item("s", "t")),
            key(&endpoint("http://a/v1", "n"), &rubric, &item("s", "t")),
            key(
                &endpoint("http://a/v1", "m"),
                &other_rubric,
                &item("s", "t"),
            ),
            key(&endpoint("http://a/v1", "m"), &rubric, &item("st", "")),
            key(
                &endpoint("http://a/v1", "m"),
                &rubric,
                &Item {
                    reference: Some("t".into()),
                    ..item("s", "t")
                },
            ),
        ];
        assert_eq!(
            keys.iter().collect::<std::collections::BTreeSet<_>>().len(),
            keys.len()
        );
        // Neither the row's name nor what tokens cost changes a verdict.
        let dearer = Rubric {
            prices: crate::eval::judge::rubric::Prices {
                prompt: Some(1.0),
                completion: None,
            },
            name: "y".into(),
            ..rubric
        };
        assert_eq!(
            key(
                &endpoint("http://a/v1", "m"),
                &dearer,
                &Item {
                    id: "b".into(),
                    ..item("s", "t")
                }
            ),
            keys[0]
        );
    }
}

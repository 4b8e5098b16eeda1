//! The file of timed choices: JSON lines, the first of which names the machine.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ops::products::place::Machine;
use crate::ops::products::signature::Form;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::Lines;

/// Share by which a candidate may be slower than the fastest and count as equal: less is noise, and
/// the library's own order decides.
const NOISE: f64 = 0.02;

/// cuBLASLt's description of an algorithm, which holds for one version of the library. A file has
/// it as hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Algorithm(pub [u64; 8]);

impl From<Algorithm> for String {
    fn from(algorithm: Algorithm) -> Self {
        algorithm.0.map(|word| format!("{word:016x}")).concat()
    }
}

impl TryFrom<String> for Algorithm {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        if text.len() != 128 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("an algorithm has 128 hexadecimal digits".to_owned());
        }
        let mut words = [0; 8];
        for (word, at) in words.iter_mut().zip((0..).step_by(16)) {
            *word = u64::from_str_radix(&text[at..at + 16], 16).map_err(|e| e.to_string())?;
        }
        Ok(Self(words))
    }
}

/// The algorithm of the products of one [key](crate::ops::products::Signature::key).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Its place among the candidates in the library's order, from 0.
    pub candidate: usize,
    /// Time of each candidate, `None` of one that was refused. Without an entry nothing was timed,
    /// because a destination to write to found no memory.
    pub microseconds: Vec<Option<f64>>,
    /// The form that it computes.
    pub form: Form,
    /// The library's description.
    pub algorithm: Algorithm,
}

/// Place of the candidate to use, by the seconds of each: the first that is as fast as the fastest
/// but for noise. `None` where all were refused.
pub fn fastest(seconds: &[Option<f64>]) -> Option<usize> {
    let least = seconds
        .iter()
        .flatten()
        .copied()
        .min_by(|a, b| a.total_cmp(b))?;
    seconds
        .iter()
        .position(|time| time.is_some_and(|time| time <= least * (1.0 + NOISE)))
}

/// Choices by the key of their products.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices(BTreeMap<String, Choice>);

#[derive(Serialize, Deserialize)]
struct Row {
    product: String,
    #[serde(flatten)]
    choice: Choice,
}

impl Choices {
    /// The choices in a file, none where it is missing, and what is wrong with it. A line that
    /// cannot be read is left out, and so are all lines where the first names another machine.
    pub fn read(path: &Path, machine: &Machine) -> (Self, Vec<String>) {
        let mut choices = Self::default();
        let mut faults = Vec::new();
        if path.exists()
            && let Err(error) = choices.read_lines(path, machine, &mut faults)
        {
            faults.push(error.message().to_owned());
        }
        (choices, faults)
    }

    fn read_lines(
        &mut self,
        path: &Path,
        machine: &Machine,
        faults: &mut Vec<String>,
    ) -> Result<()> {
        let mut lines = Lines::open(path)?;
        let place = |number: u32| format!("{}:{number}", path.display());
        let Some((number, text)) = lines.next_line()? else {
            faults.push(format!("{}: is empty", path.display()));
            return Ok(());
        };
        if parsed::<Machine>(text).map_err(|e| e.at(place(number)))? != *machine {
            faults.push(format!("{}: is of another machine", place(number)));
            return Ok(());
        }
        while let Some((number, text)) = lines.next_line()? {
            match parsed::<Row>(text) {
                Ok(row) => self.insert(row.product, row.choice),
                Err(error) => faults.push(error.at(place(number)).message().to_owned()),
            }
        }
        Ok(())
    }

    /// The text of a file.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn text(&self, machine: &Machine) -> Result<String> {
        let mut text = serde_json::to_string(machine).map_err(Error::bug_from)?;
        text.push('\n');
        for (product, choice) in &self.0 {
            let row = Row {
                product: product.clone(),
                choice: choice.clone(),
            };
            text += &serde_json::to_string(&row).map_err(Error::bug_from)?;
            text.push('\n');
        }
        Ok(text)
    }

    /// The choice of a product.
    pub fn get(&self, product: &str) -> Option<&Choice> {
        self.0.get(product)
    }

    /// Adds a choice; one that is there stays.
    pub fn insert(&mut self, product: String, choice: Choice) {
        self.0.entry(product).or_insert(choice);
    }

    /// Adds choices; those that are there stay.
    pub fn merge(&mut self, others: &Self) {
        for (product, choice) in &others.0 {
            self.insert(product.clone(), choice.clone());
        }
    }

    /// Number of products.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A line, whose errors have no place yet.
fn parsed<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    maqam_base::json::parse_slice(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::products::signature::FORMS;

    fn machine() -> Machine {
        Machine {
            gpu: "NVIDIA H200".into(),
            driver: "580.95.05".into(),
            cublaslt: "130002".into(),
        }
    }

    fn choice(candidate: usize) -> Choice {
        Choice {
            candidate,
            microseconds: vec![Some(12.5), None, Some(11.0)],
            form: FORMS[0],
            algorithm: Algorithm([candidate as u64, 0, 0, 0, 0, 0, 0, u64::MAX]),
        }
    }

    #[test]
    fn the_first_of_equally_fast_candidates_is_chosen() {
        assert_eq!(fastest(&[Some(100.0), Some(99.0), Some(98.1)]), Some(0));
        assert_eq!(fastest(&[Some(100.0), Some(99.0), Some(98.0)]), Some(1));
        assert_eq!(fastest(&[Some(100.0), None, Some(50.0)]), Some(2));
        assert_eq!(fastest(&[None, Some(3.0)]), Some(1));
        assert_eq!(fastest(&[None, None]), None);
        assert_eq!(fastest(&[]), None);
    }

    #[test]
    fn a_file_is_what_this_documentation_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("choices.jsonl");
        // Written by hand.
        let text = concat!(
            r#"{"gpu":"NVIDIA H200","driver":"580.95.05","cublaslt":"130002"}"#,
            "\n",
            r#"{"product":"p","candidate":2,"microseconds":[12.5,null,11.0],"#,
            r#""form":{"adds_bias":true,"adds_c":true,"is_restricted":true},"#,
            r#""algorithm":"0000000000000002"#,
            "0000000000000000000000000000000000000000000000000000000000000000",
            "00000000000000000000000000000000",
            r#"ffffffffffffffff"}"#,
            "\n"
        );
        std::fs::write(&path, text).unwrap();
        let (choices, faults) = Choices::read(&path, &machine());
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(choices.get("p"), Some(&choice(2)));
        assert_eq!(choices.text(&machine()).unwrap(), text);
    }

    #[test]
    fn damaged_lines_are_left_out_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("choices.jsonl");
        let mut choices = Choices::default();
        choices.insert("first".into(), choice(1));
        choices.insert("second".into(), choice(2));
        let text = choices.text(&machine()).unwrap();
        // The last line is cut, as a copy that ran out of disk leaves it.
        let cut = text.trim_end().len() - 9;
        std::fs::write(&path, &text[..cut]).unwrap();
        let (found, faults) = Choices::read(&path, &machine());
        assert_eq!((found.len(), found.get("first")), (1, Some(&choice(1))));
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("choices.jsonl:3"), "{faults:?}");

        // A digit is gone.
        let short = text.replacen("ffffffffffffffff", "fffffffffffffff", 1);
        std::fs::write(&path, &short).unwrap();
        let (found, faults) = Choices::read(&path, &machine());
        assert!(found.get("first").is_none() && found.get("second").is_some());
        assert!(faults[0].contains(":2"), "{faults:?}");

        std::fs::write(&path, [0, 159, 146, 150, b'\n']).unwrap();
        let (found, faults) = Choices::read(&path, &machine());
        assert!(found.is_empty() && faults.len() == 1, "{faults:?}");
    }

    #[test]
    fn a_file_of_another_machine_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("choices.jsonl");
        let mut choices = Choices::default();
        choices.insert("p".into(), choice(1));
        std::fs::write(&path, choices.text(&machine()).unwrap()).unwrap();
        let newer = Machine {
            driver: "590.10".into(),
            ..machine()
        };
        let (found, faults) = Choices::read(&path, &newer);
        assert!(found.is_empty());
        assert!(faults[0].contains("another machine"), "{faults:?}");
        // A missing file is no fault.
        let (found, faults) = Choices::read(&dir.path().join("none"), &newer);
        assert!(found.is_empty() && faults.is_empty());
    }

    #[test]
    fn what_is_there_stays() {
        let mut ours = Choices::default();
        ours.insert("p".into(), choice(1));
        ours.insert("p".into(), choice(2));
        let mut theirs = Choices::default();
        theirs.insert("p".into(), choice(0));
        theirs.insert("q".into(), choice(0));
        ours.merge(&theirs);
        assert_eq!(ours.get("p"), Some(&choice(1)));
        assert_eq!(ours.get("q"), Some(&choice(0)));
    }
}

//! Diacritics for Arabic texts from a command, which reads a text and writes it with diacritics.
//!
//! Only the marks of the answer are used. Diacritisers also correct the spelling of hamza, with
//! mistakes of their own, and some of them drop punctuation.

use std::time::Duration;

use serde_json::json;

use crate::build::call::Calls;
use crate::build::speak::command::is_found;
use crate::build::speak::process;
use crate::build::spoken::is_mark;
use crate::error::Error;
use crate::error::Result;

/// Mark of a final `an`, which is written on the alef or on the letter before it.
const FATHATAN: char = '\u{64b}';
/// Sign that lengthens a word without a sound.
const TATWEEL: char = '\u{640}';
/// Characters of a text that a message shows.
const SHOWN: usize = 20;

/// Answer of a diacritiser.
pub(super) enum Answer {
    /// The text with diacritics.
    Text(String),
    /// Letters other than those of the text, with the place.
    OtherLetters(String),
    /// No answer, with the reason.
    Failed(String),
    /// The build ends.
    Ended,
}

/// A command that adds diacritics.
pub(super) struct Diacritiser<'a> {
    command: Vec<String>,
    timeout: Duration,
    calls: &'a Calls<'a>,
}

impl<'a> Diacritiser<'a> {
    /// Takes the command of a recipe.
    ///
    /// # Errors
    /// A missing program.
    pub(super) fn open(command: &[String], timeout_s: f64, calls: &'a Calls<'a>) -> Result<Self> {
        let program = command.first().map_or("", String::as_str);
        if !is_found(program) {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(process::not_started(program, missing).at("speak.diacritiser"));
        }
        Ok(Self {
            command: command.to_vec(),
            timeout: Duration::from_secs_f64(timeout_s),
            calls,
        })
    }

    /// Adds diacritics to a text. An answer is cached before its letters are compared.
    ///
    /// # Errors
    /// A program that cannot be started; the disk's.
    pub(super) fn diacritise(&self, text: &str) -> Result<Answer> {
        let question = json!(["diacritics", self.command, text]);
        let mut failed = None;
        let answer = self.calls.answer(&question, || {
            let (program, arguments) = self
                .command
                .split_first()
                .ok_or_else(|| Error::bug("an empty command"))?;
            let ended = process::run(program, arguments, text, self.timeout)
                .map_err(|e| e.at("speak.diacritiser"))?;
            if !ended.is_success {
                let told = ended.told(self.calls);
                failed = Some(format!("the diacritiser failed: {told}"));
                return Ok(None);
            }
            let read = String::from_utf8_lossy(&ended.output).trim().to_owned();
            Ok(Some(read.into_bytes()))
        })?;
        let Some(answer) = answer else {
            return Ok(failed.map_or(Answer::Ended, Answer::Failed));
        };
        let answer = String::from_utf8_lossy(&answer);
        Ok(match with_marks_of(&answer, text) {
            Ok(marked) => Answer::Text(marked),
            Err(place) => Answer::OtherLetters(format!(
                "the diacritiser changed letters, from `{place}` on"
            )),
        })
    }
}

/// A letter with the marks behind it.
struct Letter {
    letter: char,
    marks: String,
}

fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !is_mark(c) && c != TATWEEL
}

fn letters(text: &str) -> Vec<Letter> {
    let mut found: Vec<Letter> = Vec::new();
    for c in text.chars() {
        if is_letter(c) {
            found.push(Letter {
                letter: c,
                marks: String::new(),
            });
        } else if let Some(last) = found.last_mut().filter(|_| is_mark(c)) {
            last.marks.push(c);
        }
    }
    found
}

/// A letter without the hamza, madda or wasla that it carries, and without the dots of yeh.
fn carrier(letter: char) -> char {
    match letter {
        'أ' | 'إ' | 'آ' | 'ٱ' => 'ا',
        'ؤ' => 'و',
        'ئ' | 'ى' => 'ي',
        other => other,
    }
}

/// The characters of a text with the marks of an answer. Marks that the text has stay, and a letter
/// of which the answer has another form takes no mark of it.
///
/// # Errors
/// An answer with other letters: the beginning of the text from the first of them on.
fn with_marks_of(answer: &str, text: &str) -> std::result::Result<String, String> {
    let own = letters(text);
    let given = letters(answer);
    let num_equal = own
        .iter()
        .zip(&given)
        .take_while(|(own, given)| carrier(own.letter) == carrier(given.letter))
        .count();
    if num_equal < own.len() || num_equal < given.len() {
        return Err(from_letter(text, num_equal));
    }

    let mut marked = String::with_capacity(answer.len());
    let mut pairs = own.iter().zip(&given);
    let mut last = "";
    for c in text.chars().filter(|c| !is_mark(*c)) {
        marked.push(c);
        if !is_letter(c) {
            continue;
        }
        if let Some((own, given)) = pairs.next() {
            last = chosen(own, given, last);
            marked.push_str(last);
        }
    }
    Ok(marked)
}

/// Marks of a letter, from those of the text, those of the answer and those of the letter before.
fn chosen<'l>(own: &'l Letter, given: &'l Letter, last: &str) -> &'l str {
    let is_final_an = own.letter == 'ا' && own.marks.contains(FATHATAN);
    if is_final_an && last.contains(FATHATAN) {
        return "";
    }
    let has_own = own.marks.chars().all(|mark| given.marks.contains(mark));
    match own.letter == given.letter && has_own {
        true => &given.marks,
        false => &own.marks,
    }
}

/// The text from its letter of this number on, or its end if it has fewer, cut off.
fn from_letter(text: &str, number: usize) -> String {
    let places: Vec<usize> = text
        .char_indices()
        .filter(|(_, c)| is_letter(*c))
        .map(|(place, _)| place)
        .collect();
    let place = places.get(number).or(places.last()).copied().unwrap_or(0);
    text[place..].chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of text2tashkeel 0.1.0 (`rawi-ensemble`) to parts of news texts.
    #[test]
    fn letters_stay_and_marks_are_added() {
        for (text, answer, expected) in [
            // The answer drops a madda and its letter's mark is not used.
            ("السيد آدامز \"إن", "السَّيِّدُ ادَامْزُ \"إِنَّ", "السَّيِّدُ آدَامْزُ \"إِنَّ"),
            ("وأضاف إن", "وَأَضَافَ أَنَّ", "وَأَضَافَ إنَّ"),
            ("ريفرسايد", "رِيفَرْسَائِدَ", "رِيفَرْسَايدَ"),
            // Marks of the text stay: a final `an` is not written twice.
            ("عاجلاً أو", "عَاجِلًا أَوْ", "عَاجِلًا أَوْ"),
            ("لا تُعوض.", "لَا تَعَوِّضُ.", "لَا تُعَوِّضُ."),
            ("محمّد", "مُحَمَّدٌ", "مُحَمَّدٌ"),
            // Punctuation and spaces are those of the text, and so is what is not Arabic.
            ("قال:  «نعم» MWP 18", "قَالَ نَعَمْ MWP", "قَالَ:  «نَعَمْ» MWP 18"),
            ("نعم", "نعم", "نعم"),
        ] {
            assert_eq!(with_marks_of(answer, text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn other_letters_are_found() {
        for (text, answer, place) in [
            // An answer of mishkal 0.4.1, which lost a letter.
            ("خسارة وسبعة أنصاف", "خَسَارَةَ سَبْعَةٍ أَنْصَافٌ", "وسبعة أنصاف"),
            ("قال", "قَالَتْ", "ل"),
            ("قالت نعم", "قَالَتْ", "نعم"),
            ("قال MWP", "قَالَ", "MWP"),
            ("مدرسة", "مَدْرَسَه", "ة"),
            ("ماء", "مأ", "ء"),
        ] {
            assert_eq!(with_marks_of(answer, text), Err(place.to_owned()));
        }
    }
}

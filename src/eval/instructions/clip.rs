//! What manifests know of a clip: the answers of all tasks that were asked of it, gathered from the
//! rows that share its audio.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;

use serde_json::Value;

use crate::data::AudioSource;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::language::Language;
use crate::eval::instructions::wordings::Wordings;
use crate::metrics::TaskKind;
use crate::task::Label;
use crate::task::Task;

/// A manifest's row and the task it is for.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The row.
    pub row: &'a Row,
    /// The task.
    pub task: &'a Task,
}

/// A field of a row that marks a clip in which an instruction is spoken: `true`, or the
/// instruction.
const SPOKEN_FIELD: &str = "spoken_instruction";
/// A field of a row: what a model that obeys the spoken instruction would answer, a text or a list
/// of texts.
const OBEYED_FIELD: &str = "obeyed";

/// A right answer as the manifest has it.
#[derive(Clone, Copy)]
enum Gold<'a> {
    Text(&'a str),
    Label(&'a Label),
}

/// One clip.
pub struct Clip<'a> {
    /// The first row that has it.
    pub row: &'a Row,
    /// Its transcript.
    pub text: Option<&'a str>,
    /// Whether an instruction is spoken in it.
    pub is_instruction: bool,
    /// What a model that obeys the spoken instruction would answer.
    pub obeyed: Vec<String>,
    answers: BTreeMap<&'a str, Gold<'a>>,
    /// The tasks that its rows are for.
    tasks: BTreeSet<&'a str>,
}

impl Clip<'_> {
    /// The right answer to a task as it is said in `language`; none where no manifest knows.
    pub fn answer(&self, task: &Task, language: Language) -> Option<String> {
        Some(match self.answers.get(task.name.as_str())? {
            Gold::Text(text) => (*text).to_owned(),
            Gold::Label(label) => label
                .words
                .get(language.tag())
                .unwrap_or(&label.name)
                .clone(),
        })
    }

    /// Whether a task can be asked about it: a summary of a clip for which no row has one is asked
    /// only where a row is for that task.
    pub fn serves(&self, task: &Task) -> bool {
        let name = task.name.as_str();
        task.kind != TaskKind::Generate
            || self.answers.contains_key(name)
            || self.tasks.contains(name)
    }

    /// Everything that the right label of a task is called.
    pub fn label_words(&self, task: &Task) -> Option<Vec<String>> {
        match self.answers.get(task.name.as_str())? {
            Gold::Label(label) => Some(words_of(label)),
            Gold::Text(_) => None,
        }
    }

    /// The language of the speech, where it is one of ours.
    pub fn language(&self) -> Option<Language> {
        self.row.language.as_deref().and_then(Language::of_tag)
    }
}

/// A label's name and its words in all languages.
pub fn words_of(label: &Label) -> Vec<String> {
    let mut words: Vec<String> = std::iter::once(&label.name)
        .chain(label.words.values())
        .cloned()
        .collect();
    words.sort();
    words.dedup();
    words
}

/// The clips of some rows in the order in which they first come, and what of the rows could not be
/// used.
///
/// # Errors
/// A label outside its task's inventory.
pub fn gather<'a>(
    sources: &[Source<'a>],
    wordings: &Wordings,
) -> Result<(Vec<Clip<'a>>, Vec<String>)> {
    let mut clips: Vec<Clip> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut without_file = 0;
    let mut conversations = 0;
    let mut repeated = 0;
    for source in sources {
        let row = source.row;
        let Some(key) = audio_key(row) else {
            without_file += 1;
            continue;
        };
        if !row.messages.is_empty() {
            conversations += 1;
            continue;
        }
        let place = *places.entry(key).or_insert_with(|| {
            clips.push(Clip {
                row,
                text: None,
                is_instruction: false,
                obeyed: Vec::new(),
                answers: BTreeMap::new(),
                tasks: BTreeSet::new(),
            });
            clips.len() - 1
        });
        let clip = &mut clips[place];
        clip.tasks.insert(&source.task.name);
        if let Some(gold) = gold(source).map_err(|e| e.at(format!("row `{}`", row.id)))?
            && clip.answers.insert(&source.task.name, gold).is_some()
        {
            repeated += 1;
        }
        clip.text = clip.text.or(row.text.as_deref());
        mark_spoken(clip, row)?;
    }
    for clip in &mut clips {
        clip.is_instruction |= clip
            .text
            .is_some_and(|text| wordings.sounds_like_an_instruction(text));
    }
    let note = |count: usize, what: &str| (count > 0).then(|| format!("{count} rows {what}"));
    let notes = [
        note(
            without_file,
            "have no audio file of their own and are left out",
        ),
        note(
            conversations,
            "bring their own conversations and are left out",
        ),
        note(
            repeated,
            "answer a task that an earlier row answers for the same clip; the last answer counts",
        ),
    ];
    Ok((clips, notes.into_iter().flatten().collect()))
}

fn gold<'a>(source: &Source<'a>) -> Result<Option<Gold<'a>>> {
    let row = source.row;
    let text = |text: Option<&'a str>| text.filter(|text| !text.trim().is_empty()).map(Gold::Text);
    let kind = source.task.kind;
    Ok(match kind.is_text() {
        true => text(row.target.as_deref().or(row.answer(kind))),
        false => row
            .label
            .as_deref()
            .map(|label| source.task.row_label(label))
            .transpose()?
            .map(Gold::Label),
    })
}

fn mark_spoken(clip: &mut Clip, row: &Row) -> Result<()> {
    if row.extra.is_none() {
        return Ok(());
    }
    let extra = row.extra_fields();
    let wrong = |field: &str, wanted: &str| {
        Error::input(format!("`{field}` is not {wanted}")).at(format!("row `{}`", row.id))
    };
    match extra.get(SPOKEN_FIELD) {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true) | Value::String(_)) => clip.is_instruction = true,
        Some(_) => return Err(wrong(SPOKEN_FIELD, "true, false or the instruction")),
    }
    match extra.get(OBEYED_FIELD) {
        None => {}
        Some(Value::String(text)) => clip.obeyed.push(text.clone()),
        Some(Value::Array(texts)) => {
            let texts = texts.iter().map(|text| text.as_str().map(str::to_owned));
            clip.obeyed.extend(
                texts
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(|| wrong(OBEYED_FIELD, "a list of texts"))?,
            );
        }
        Some(_) => return Err(wrong(OBEYED_FIELD, "a text or a list of texts")),
    }
    Ok(())
}

/// What two rows of the same audio have in common; none without audio, or with audio inside the
/// manifest.
fn audio_key(row: &Row) -> Option<String> {
    let mut keys = Vec::with_capacity(row.clips.len());
    for clip in &row.clips {
        let span = clip.span.key();
        keys.push(match &clip.source {
            AudioSource::File(path) => format!("{}\0{span}", path.display()),
            AudioSource::Range { file, start, .. } => {
                format!("{}\0{start}\0{span}", file.display())
            }
            AudioSource::Embedded { .. } => return None,
        });
    }
    (!keys.is_empty()).then(|| keys.join("\0\0"))
}

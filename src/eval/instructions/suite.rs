//! A suite of instructions built from any manifest: the same rows from the same clips, tasks,
//! settings and seed.

use std::path::Path;

use crate::data::AUDIO_MARK;
use crate::data::Message;
use crate::data::Role;
use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::check::Check;
use crate::eval::instructions::clip::Clip;
use crate::eval::instructions::clip::Source;
use crate::eval::instructions::clip::gather;
use crate::eval::instructions::clip::words_of;
use crate::eval::instructions::constraint::Constraint;
use crate::eval::instructions::kind::InstructionKind;
use crate::eval::instructions::language::Language;
use crate::eval::instructions::question::Ask;
use crate::eval::instructions::question::check_of;
use crate::eval::instructions::question::checks_of_kind;
use crate::eval::instructions::question::fitted;
use crate::eval::instructions::row::InstructionRow;
use crate::eval::instructions::settings::CLIPS_A_WORDING;
use crate::eval::instructions::settings::Settings;
use crate::eval::instructions::wordings::Wordings;
use crate::metrics::TaskKind;
use crate::seed::Key;
use crate::task::Task;
use crate::task::Wording;

/// A suite, and what it could not hold.
#[derive(Debug)]
pub struct Suite {
    /// The rows, kind after kind.
    pub rows: Vec<InstructionRow>,
    /// Rows, kinds and tasks that were left out, and why.
    pub left_out: Vec<String>,
}

impl Suite {
    /// The rows of which the transcript is known, in text alone, as JSON lines; and how many rows
    /// are left out.
    ///
    /// # Errors
    /// None but a bug.
    pub fn to_text_jsonl(&self) -> Result<(String, usize)> {
        let mut text = String::new();
        let mut left_out = 0;
        for row in &self.rows {
            match row.text_line() {
                Some(line) => text += &(line.to_text()? + "\n"),
                None => left_out += 1,
            }
        }
        Ok((text, left_out))
    }

    /// The suite as JSON lines for a file in `folder`.
    ///
    /// # Errors
    /// A path that cannot be seen from `folder`.
    pub fn to_jsonl(&self, folder: &Path) -> Result<String> {
        let mut text = String::new();
        for row in &self.rows {
            text += &(row.line(folder)?.to_text()? + "\n");
        }
        Ok(text)
    }
}

/// Builds a suite that asks `tasks` about the clips of `sources`.
///
/// A clip's transcript, summary and labels come from every source that has its audio. Which clips,
/// wordings and constraints are drawn depends on the seed, the kind and the place in the kind, not
/// on the other kinds.
///
/// # Errors
/// Settings or rows that nothing can be made of; a label outside its inventory.
pub fn suite(sources: &[Source], tasks: &[&Task], settings: &Settings, seed: u64) -> Result<Suite> {
    settings.check()?;
    let wordings = Wordings::built_in()?;
    let (clips, mut left_out) = gather(sources, &wordings)?;
    if clips.is_empty() {
        return Err(Error::input("no row has an audio file to ask about")
            .hint("instructions are given about clips: use a manifest with `audio`"));
    }
    let (tasks, unworded): (Vec<&Task>, Vec<&Task>) = tasks.iter().partition(|task| {
        settings
            .languages
            .iter()
            .all(|&language| !Ask::all(task, settings.wording, language).is_empty())
    });
    left_out.extend(unworded.iter().map(|task| {
        format!(
            "task `{}` is not worded in every language of the suite",
            task.name
        )
    }));
    let (tasks, unserved): (Vec<&Task>, Vec<&Task>) = tasks
        .into_iter()
        .partition(|task| clips.iter().any(|clip| clip.serves(task)));
    left_out.extend(unserved.iter().map(|task| {
        format!(
            "task `{0}` is not asked: no clip has an answer to it; `--task {0}` beside a manifest asks it all the same",
            task.name
        )
    }));
    let labels = tasks
        .iter()
        .flat_map(|task| &task.labels)
        .flat_map(words_of)
        .collect();
    let builder = Builder {
        clips,
        tasks,
        labels,
        settings,
        wordings,
        key: Key::new(seed, "instruction suite"),
    };
    let mut rows = Vec::new();
    for &kind in &settings.kinds {
        let (of_kind, notes) = builder.rows(kind)?;
        left_out.extend(notes);
        match (of_kind.is_empty(), builder.why_none(kind)) {
            (true, why) => left_out.push(format!("no row of kind `{}`: {why}", kind.name())),
            (false, _) => rows.extend(of_kind),
        }
    }
    if rows.is_empty() {
        return Err(Error::input(format!(
            "nothing can be asked: {}",
            left_out.join("; ")
        )));
    }
    Ok(Suite { rows, left_out })
}

/// What rows are made from.
struct Builder<'a> {
    clips: Vec<Clip<'a>>,
    tasks: Vec<&'a Task>,
    labels: Vec<String>,
    settings: &'a Settings,
    wordings: Wordings,
    key: Key,
}

/// The place of a question in its kind: what it is about and where its draws come from.
#[derive(Clone, Copy)]
struct Slot<'a> {
    kind: InstructionKind,
    number: usize,
    task: &'a Task,
    language: Language,
    key: Key,
}

/// The clips of a kind that no question has taken yet, in the order in which they are tried.
struct OpenClips {
    /// By task where each task may take every clip, otherwise one list for all.
    open: Vec<Vec<usize>>,
}

impl OpenClips {
    fn new(order: &[u32], num_tasks: usize, by_task: bool) -> Self {
        let order: Vec<usize> = order.iter().map(|clip| *clip as usize).collect();
        let lists = if by_task { num_tasks } else { 1 };
        Self {
            open: vec![order; lists],
        }
    }

    /// The first open clip that a question of a task can be asked about, with the question; it is
    /// open no longer.
    fn take<T>(
        &mut self,
        task: usize,
        mut asked: impl FnMut(usize) -> Result<Vec<T>>,
    ) -> Result<Option<(usize, Vec<T>)>> {
        let place = task % self.open.len();
        let open = &mut self.open[place];
        for i in 0..open.len() {
            let found = asked(open[i])?;
            if !found.is_empty() {
                return Ok(Some((open.remove(i), found)));
            }
        }
        Ok(None)
    }
}

/// A question with what is checked and known of its answer.
struct Asked<'a> {
    ask: Ask<'a>,
    messages: Vec<Message>,
    checks: Vec<Check>,
    right: Option<Check>,
    reference: Option<String>,
}

impl<'a> Builder<'a> {
    /// The rows of one kind, and what they lack: clips in a seeded order, tasks and languages in
    /// turn.
    fn rows(&self, kind: InstructionKind) -> Result<(Vec<InstructionRow>, Vec<String>)> {
        let fits = |task: &&&Task| kind.fits(task);
        let tasks: Vec<&Task> = self.tasks.iter().filter(fits).copied().collect();
        let key = self.key.with_name(kind.name());
        let order = key.permutation(self.clips.len());
        let mut open = OpenClips::new(&order, tasks.len(), kind == InstructionKind::Wording);
        let mut asked_about = vec![0; tasks.len()];
        let mut rows = Vec::new();
        let mut number = 0;
        // A task in turn that is asked enough or for which no clip is left is passed over; a round
        // of such turns ends the kind.
        let mut passed_over = 0;
        while passed_over < tasks.len() {
            let in_turn = number % tasks.len();
            let needs_clips =
                kind == InstructionKind::Wording && asked_about[in_turn] < CLIPS_A_WORDING;
            if rows.len() >= self.settings.rows && !needs_clips {
                number += 1;
                passed_over += 1;
                continue;
            }
            let languages = &self.settings.languages;
            let slot = Slot {
                kind,
                number,
                task: tasks[in_turn],
                language: languages[(number / tasks.len()) % languages.len()],
                key: key.with(number as u64),
            };
            number += 1;
            let Some((clip, asked)) =
                open.take(in_turn, |clip| self.asked(&slot, &self.clips[clip], &tasks))?
            else {
                passed_over += 1;
                continue;
            };
            passed_over = 0;
            asked_about[in_turn] += 1;
            for asked in asked {
                let id = format!(
                    "{}-{:03}-{}",
                    kind.name(),
                    rows.len() + 1,
                    self.clips[clip].row.id
                );
                rows.push(self.row(&slot, &self.clips[clip], asked, id)?);
            }
        }
        let mut notes = Vec::new();
        for (task, clips) in tasks.iter().zip(asked_about) {
            if kind == InstructionKind::Wording && (1..CLIPS_A_WORDING).contains(&clips) {
                notes.push(format!(
                    "task `{}` is asked about {clips} clips in each wording, not about {CLIPS_A_WORDING}: more do not serve",
                    task.name
                ));
            }
        }
        Ok((rows, notes))
    }

    fn row(&self, slot: &Slot, clip: &Clip, asked: Asked, id: String) -> Result<InstructionRow> {
        let text = clip.text.map(str::trim).filter(|text| !text.is_empty());
        let transcript = text
            .map(|text| self.wordings.transcript(text, asked.ask.language))
            .transpose()?;
        Ok(InstructionRow {
            id,
            kind: slot.kind,
            asks: asked.ask.task.name.clone(),
            wording: asked.ask.name(),
            source: clip.row.clone(),
            right: asked
                .right
                .or_else(|| self.right(asked.ask.task, clip, &asked.checks)),
            messages: asked.messages,
            checks: asked.checks,
            reference: asked.reference,
            transcript,
        })
    }

    /// What holds of a right answer in any form: it names the right label and no other, or
    /// transcribes the clip. Of a summary no program can say, and of a transcript none where
    /// `checks` ask for words beside it.
    fn right(&self, task: &Task, clip: &Clip, checks: &[Check]) -> Option<Check> {
        match task.kind {
            TaskKind::Classify => {
                let answers = clip.label_words(task)?;
                let others = task.labels.iter().flat_map(words_of);
                let others = others.filter(|word| !answers.contains(word)).collect();
                Some(Check::Names { answers, others })
            }
            TaskKind::Transcribe if checks.iter().any(Check::adds_words) => None,
            TaskKind::Transcribe => {
                let text = clip.answer(task, Language::English)?;
                let check = Check::Transcribes {
                    text,
                    max_cer: self.settings.max_cer,
                };
                check.validate().is_ok().then_some(check)
            }
            TaskKind::Generate => None,
        }
    }

    /// Why a kind can have no rows.
    fn why_none(&self, kind: InstructionKind) -> &'static str {
        match kind {
            _ if !self.tasks.iter().any(|task| kind.fits(task)) => "none of the tasks suits it",
            InstructionKind::Spoken => {
                "no transcript begins like an instruction, and no row is marked with `spoken_instruction`"
            }
            InstructionKind::TwoTurns | InstructionKind::ThreeTurns => {
                "earlier turns need answers that the rows do not have"
            }
            _ => "the rows do not have what it needs",
        }
    }

    /// The questions of a slot about a clip; none where the clip does not serve.
    fn asked(&self, slot: &Slot<'a>, clip: &Clip, tasks: &[&'a Task]) -> Result<Vec<Asked<'a>>> {
        if !clip.serves(slot.task) {
            return Ok(Vec::new());
        }
        match slot.kind {
            InstructionKind::Switch => tasks
                .iter()
                .filter(|task| clip.serves(task))
                .map(|task| self.of_kind(self.drawn(task, slot)?, clip))
                .collect(),
            InstructionKind::Wording => self.every_wording(slot, clip),
            InstructionKind::Spoken if clip.is_instruction => Ok(vec![self.spoken(slot, clip)?]),
            InstructionKind::Spoken => Ok(Vec::new()),
            InstructionKind::TwoTurns => Ok(self.two_turns(slot, clip)?.into_iter().collect()),
            InstructionKind::ThreeTurns => Ok(self.three_turns(slot, clip)?.into_iter().collect()),
            _ => Ok(vec![self.constrained(slot, clip)?]),
        }
    }

    fn drawn(&self, task: &'a Task, slot: &Slot) -> Result<Ask<'a>> {
        Ask::drawn(
            task,
            self.settings.wording,
            slot.language,
            slot.key.with_name(&task.name),
        )
    }

    /// A question under the constraints that its kind puts on its task.
    fn constrained(&self, slot: &Slot<'a>, clip: &Clip) -> Result<Asked<'a>> {
        let ask = self.drawn(slot.task, slot)?;
        let (checks, rules) = self.rules(&ask, self.constraints_of(slot, clip), clip, slot)?;
        let question = format!("{} {rules}", ask.instruction());
        let mut messages = system(slot.task, slot.language);
        messages.push(heard(clip, &question));
        Ok(Asked {
            ask,
            messages,
            reference: self.reference(&ask, clip, &checks),
            checks,
            right: None,
        })
    }

    /// The constraints of a slot, in turn; the turn shifts by one from language to language and
    /// round to round, so that none always meets the same task and language. Only Arabic has
    /// diacritics to leave out.
    fn constraints_of(&self, slot: &Slot, clip: &Clip) -> &'static [Constraint] {
        let suits = |constraints: &&&[Constraint]| {
            clip.language() != Some(Language::English)
                || !constraints.contains(&Constraint::NoDiacritics)
        };
        let known: Vec<&'static [Constraint]> = slot
            .kind
            .constraints(slot.task.kind)
            .iter()
            .filter(suits)
            .copied()
            .collect();
        let num_tasks = self
            .tasks
            .iter()
            .filter(|task| slot.kind.fits(task))
            .count()
            .max(1);
        let rounds = slot.number / num_tasks;
        known[(slot.number + rounds + rounds / self.settings.languages.len()) % known.len()]
    }

    /// Constraints as checks and as a sentence each.
    fn rules(
        &self,
        ask: &Ask,
        constraints: &[Constraint],
        clip: &Clip,
        slot: &Slot,
    ) -> Result<(Vec<Check>, String)> {
        let key = slot.key.with_name("rule");
        let check = |(i, constraint): (usize, &Constraint)| {
            check_of(*constraint, *ask, clip, &self.wordings, key.with(i as u64))
        };
        let checks = constraints
            .iter()
            .enumerate()
            .map(check)
            .collect::<Result<Vec<_>>>()?;
        let say = |(i, check): (usize, &Check)| {
            check.describe(
                &self.wordings,
                ask.language,
                key.with_name("wording").with(i as u64),
            )
        };
        let rules = checks
            .iter()
            .enumerate()
            .map(say)
            .collect::<Result<Vec<_>>>()?
            .join(" ");
        Ok((checks, rules))
    }

    /// An answer that holds the checks: the right one in a fitting form, in either language.
    fn reference(&self, ask: &Ask, clip: &Clip, checks: &[Check]) -> Option<String> {
        let languages = [ask.language, Language::Arabic, Language::English];
        languages
            .into_iter()
            .find_map(|language| fitted(&clip.answer(ask.task, language)?, checks))
    }

    /// A bare question, checked for an answer of its task's kind.
    fn of_kind(&self, ask: Ask<'a>, clip: &Clip) -> Result<Asked<'a>> {
        let mut messages = system(ask.task, ask.language);
        messages.push(heard(clip, &ask.instruction()));
        let checks = checks_of_kind(ask.task, clip, &self.labels, self.settings);
        Ok(Asked {
            ask,
            messages,
            reference: self.reference(&ask, clip, &checks),
            checks,
            right: None,
        })
    }

    /// The slot's task in every wording that training has not seen, in every language.
    fn every_wording(&self, slot: &Slot<'a>, clip: &Clip) -> Result<Vec<Asked<'a>>> {
        let answers = |clip: &Clip| clip.answer(slot.task, slot.language).is_some();
        if !answers(clip) && self.clips.iter().any(answers) {
            return Ok(Vec::new());
        }
        let sets: &[Wording] = if self.settings.wording == Wording::Test {
            &[Wording::Dev, Wording::Test]
        } else {
            &[Wording::Dev]
        };
        let right = clip
            .label_words(slot.task)
            .map(|answers| Check::OneOf { answers });
        let all = sets.iter().flat_map(|&set| {
            self.settings
                .languages
                .iter()
                .flat_map(move |&language| Ask::all(slot.task, set, language))
        });
        all.map(|ask| {
            Ok(Asked {
                right: right.clone(),
                ..self.of_kind(ask, clip)?
            })
        })
        .collect()
    }

    /// The slot's task about a clip in which something else is told.
    fn spoken(&self, slot: &Slot<'a>, clip: &Clip) -> Result<Asked<'a>> {
        let mut asked = self.of_kind(self.drawn(slot.task, slot)?, clip)?;
        if !clip.obeyed.is_empty() {
            asked.checks.push(Check::NoneOf {
                answers: clip.obeyed.clone(),
            });
            asked.reference = self.reference(&asked.ask, clip, &asked.checks);
        }
        Ok(asked)
    }

    /// The tasks whose answers about the clip are known, beginning at a place that moves with the
    /// slot.
    fn known(&self, slot: &Slot, clip: &Clip) -> Vec<&'a Task> {
        let mut known: Vec<&Task> = self
            .tasks
            .iter()
            .copied()
            .filter(|task| slot.kind.fits(task) && clip.answer(task, slot.language).is_some())
            .collect();
        if !known.is_empty() {
            let start = slot.number % known.len();
            known.rotate_left(start);
        }
        known
    }

    /// A task answered, then the slot's task under a constraint.
    fn two_turns(&self, slot: &Slot<'a>, clip: &Clip) -> Result<Option<Asked<'a>>> {
        let Some(&first) = self
            .known(slot, clip)
            .iter()
            .max_by_key(|task| task.name != slot.task.name)
        else {
            return Ok(None);
        };
        let opening = Ask::drawn(
            first,
            self.settings.wording,
            slot.language,
            slot.key.with_name("opening"),
        )?;
        let ask = self.drawn(slot.task, slot)?;
        let (checks, rules) = self.rules(&ask, self.constraints_of(slot, clip), clip, slot)?;
        let mut messages = system(first, slot.language);
        messages.push(heard(clip, &opening.instruction()));
        messages.push(Message::new(
            Role::Assistant,
            clip.answer(first, slot.language).unwrap_or_default(),
        ));
        let question = format!("{} {rules}", ask.instruction());
        messages.push(Message::new(
            Role::User,
            self.wordings
                .another(&question, slot.language, slot.key.with_name("turn"))?,
        ));
        Ok(Some(Asked {
            ask,
            messages,
            reference: self.reference(&ask, clip, &checks),
            checks,
            right: None,
        }))
    }

    /// A task answered under a rule, another under the same rule, then the slot's task under a rule
    /// that replaces it.
    fn three_turns(&self, slot: &Slot<'a>, clip: &Clip) -> Result<Option<Asked<'a>>> {
        let known = self.known(slot, clip);
        let Some(&first) = known.first() else {
            return Ok(None);
        };
        let second = known.get(1).copied().unwrap_or(first);
        let wanted = self.constraints_of(slot, clip);
        // No answer under the old rule also holds the new one: JSON is no label and has
        // punctuation, and it begins and ends with a brace.
        let old = if wanted == [Constraint::Json] {
            Constraint::Starts
        } else {
            Constraint::Json
        };
        let key = slot.key.with_name("old");
        let opening = Ask::drawn(first, self.settings.wording, slot.language, key.with(0))?;
        let following = Ask::drawn(second, self.settings.wording, slot.language, key.with(1))?;
        let ask = self.drawn(slot.task, slot)?;
        let rule = alone(check_of(old, opening, clip, &self.wordings, key)?);
        let said = rule.describe(&self.wordings, slot.language, key.with_name("wording"))?;
        let answer = |task: &Task| {
            clip.answer(task, slot.language)
                .and_then(|answer| fitted(&answer, std::slice::from_ref(&rule)))
        };
        let (Some(first_answer), Some(second_answer)) = (answer(first), answer(second)) else {
            return Ok(None);
        };
        let (checks, rules) = self.rules(&ask, wanted, clip, slot)?;
        let mut messages = system(first, slot.language);
        messages.push(heard(clip, &format!("{} {said}", opening.instruction())));
        messages.push(Message::new(Role::Assistant, first_answer));
        messages.push(Message::new(
            Role::User,
            self.wordings.another(
                &format!("{} {said}", following.instruction()),
                slot.language,
                key.with_name("turn"),
            )?,
        ));
        messages.push(Message::new(Role::Assistant, second_answer));
        messages.push(Message::new(
            Role::User,
            self.wordings.instead(
                &ask.instruction(),
                &rules,
                slot.language,
                slot.key.with_name("turn"),
            )?,
        ));
        Ok(Some(Asked {
            ask,
            messages,
            reference: self.reference(&ask, clip, &checks),
            checks,
            right: None,
        }))
    }
}

/// JSON with the first of its keys only: what an earlier answer would say under the others nobody
/// knows.
fn alone(mut check: Check) -> Check {
    if let Check::JsonKeys { keys } = &mut check {
        keys.truncate(1);
    }
    check
}

/// The system message of a task, in the language of the instruction where it has one.
fn system(task: &Task, language: Language) -> Vec<Message> {
    let known = task
        .system
        .get(language.tag())
        .or_else(|| task.system.get(Language::English.tag()))
        .or_else(|| task.system.values().next());
    known
        .map(|system| Message::new(Role::System, system))
        .into_iter()
        .collect()
}

/// A user's message about the clip.
fn heard(clip: &Clip, question: &str) -> Message {
    Message::new(
        Role::User,
        AUDIO_MARK.repeat(clip.row.clips.len()) + question,
    )
}

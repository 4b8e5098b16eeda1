//! What each task and label gets of a stage: its share of examples, seconds and target tokens, and
//! how much of its rows that reaches.

use std::collections::BTreeMap;
use std::collections::HashMap;

use crate::plan::draws::StageDraws;
use crate::plan::facts::Facts;
use crate::plan::table::Table;
use crate::schedule::NO_LABEL;
use crate::schedule::Pick;
use crate::schedule::Population;
use crate::text_table::NOTHING;
use crate::text_table::count;
use crate::text_table::duration;
use crate::text_table::percent;

/// What a task, a label or a whole stage gets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    /// Draws.
    pub examples: f64,
    /// Audio, in seconds.
    pub seconds: f64,
    /// Tokens of the conversations; `None` without a tokenizer.
    pub tokens: Option<f64>,
    /// Tokens that are learnt; `None` without a tokenizer.
    pub target_tokens: Option<f64>,
}

impl Amount {
    /// The amount as a JSON object.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "examples": self.examples,
            "audio_s": self.seconds,
            "tokens": self.tokens,
            "target_tokens": self.target_tokens,
        })
    }

    fn add(&mut self, other: &Self) {
        let sum = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (None, b) if self.examples == 0.0 => b,
            (a, None) if other.examples == 0.0 => a,
            _ => None,
        };
        let tokens = sum(self.tokens, other.tokens);
        let target_tokens = sum(self.target_tokens, other.target_tokens);
        *self = Self {
            examples: self.examples + other.examples,
            seconds: self.seconds + other.seconds,
            tokens,
            target_tokens,
        };
    }

    /// The sum of amounts.
    pub fn sum<'a>(amounts: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        amounts.for_each(|amount| sum.add(amount));
        sum
    }
}

/// How draws fall on rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Rows there are.
    pub num_rows: u64,
    /// Those that are drawn at least once.
    pub num_drawn: u64,
    /// Draws of the row that is drawn most.
    pub most: u64,
}

/// A task, or one label of it, in a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Place of the task.
    pub task: usize,
    /// Place of the label among the task's, where this is one label's share; [`NO_LABEL`] for rows
    /// without a label.
    pub label: Option<u16>,
    /// What it gets.
    pub amount: Amount,
    /// What that reaches.
    pub reach: Reach,
}

impl Share {
    /// Name of the label, where this is one label's share.
    pub fn label_name<'a>(&self, population: &'a Population) -> Option<&'a str> {
        match self.label? {
            NO_LABEL => Some("(no label)"),
            label => Some(&population.labels[self.task][usize::from(label)]),
        }
    }
}

/// The shares of one stage.
pub struct StageShares {
    /// Each task that gets something, followed by its labels where it has any.
    pub shares: Vec<Share>,
    /// All tasks together.
    pub total: Amount,
}

/// The cell of a row: its task and label.
type CellOf = (usize, u16);

/// What each task and label gets of a stage; `index` is the stage's place among those of `facts`.
pub fn of_stage(
    population: &Population,
    draws: &StageDraws,
    facts: &Facts,
    index: usize,
) -> StageShares {
    let cell = |row: u32| {
        (
            usize::from(population.row_task[row as usize]),
            population.label_of(row),
        )
    };
    let mut amounts: BTreeMap<CellOf, Amount> = BTreeMap::new();
    let mut drawn: HashMap<u32, u64> = HashMap::new();
    for pick in draws.steps.iter().flatten() {
        amounts.entry(cell(pick.row)).or_default().examples += 1.0;
        *drawn.entry(pick.row).or_default() += 1;
    }
    let looked_at = facts.steps[index]
        .iter()
        .flat_map(|&step| &draws.steps[step]);
    measure(&mut amounts, looked_at, facts, cell);
    let mut reach: BTreeMap<CellOf, Reach> = BTreeMap::new();
    for row in 0..population.row_task.len() as u32 {
        let of = reach.entry(cell(row)).or_default();
        let draws = drawn.get(&row).copied().unwrap_or(0);
        *of = Reach {
            num_rows: of.num_rows + 1,
            num_drawn: of.num_drawn + u64::from(draws > 0),
            most: of.most.max(draws),
        };
    }
    let mut shares = Vec::new();
    for task in 0..population.tasks.len() {
        let labels: Vec<Share> = amounts
            .iter()
            .filter(|((of, _), _)| *of == task)
            .map(|(cell, amount)| Share {
                task,
                label: Some(cell.1),
                amount: *amount,
                reach: reach[cell],
            })
            .collect();
        if labels.is_empty() {
            continue;
        }
        let of_task = reach
            .iter()
            .filter(|((of, _), _)| *of == task)
            .map(|(_, reach)| reach);
        let whole = of_task.fold(Reach::default(), |a, b| Reach {
            num_rows: a.num_rows + b.num_rows,
            num_drawn: a.num_drawn + b.num_drawn,
            most: a.most.max(b.most),
        });
        shares.push(Share {
            task,
            label: None,
            amount: Amount::sum(labels.iter().map(|share| &share.amount)),
            reach: whole,
        });
        shares.extend(labels.into_iter().filter(|_| {
            population
                .labels
                .get(task)
                .is_some_and(|labels| !labels.is_empty())
        }));
    }
    let total = Amount::sum(
        shares
            .iter()
            .filter(|share| share.label.is_none())
            .map(|share| &share.amount),
    );
    StageShares { shares, total }
}

/// Seconds and tokens of each cell: those of the draws that were looked at, scaled to all its
/// draws.
fn measure<'a>(
    amounts: &mut BTreeMap<CellOf, Amount>,
    looked_at: impl Iterator<Item = &'a Pick>,
    facts: &Facts,
    cell: impl Fn(u32) -> CellOf,
) {
    let mut known: BTreeMap<CellOf, Amount> = BTreeMap::new();
    for (pick, fact) in looked_at.filter_map(|pick| Some((pick, facts.of(*pick)?))) {
        let tokens = |of: fn((usize, usize)) -> usize| fact.tokens.map(|tokens| of(tokens) as f64);
        let one = Amount {
            examples: 1.0,
            seconds: fact.seconds,
            tokens: tokens(|(all, _)| all),
            target_tokens: tokens(|(_, targets)| targets),
        };
        known.entry(cell(pick.row)).or_default().add(&one);
    }
    for (cell, amount) in amounts {
        if let Some(known) = known.get(cell) {
            // Where all draws were looked at the factor is one, and nothing is rounded.
            let factor = amount.examples / known.examples;
            amount.seconds = known.seconds * factor;
            (amount.tokens, amount.target_tokens) = (
                known.tokens.map(|tokens| tokens * factor),
                known.target_tokens.map(|tokens| tokens * factor),
            );
        }
    }
}

const COLUMNS: [&str; 12] = [
    "task, label",
    "examples",
    "%",
    "audio",
    "%",
    "targets",
    "%",
    "rows",
    "drawn",
    "cover %",
    "draws/row",
    "most",
];

/// The table of a stage's shares; at its end the stage itself.
pub fn table(population: &Population, stage: &StageShares, title: String, note: String) -> Table {
    let mut table = Table::new(title, note, &COLUMNS, 1);
    let tokens = |amount: &Amount| amount.target_tokens.map_or(NOTHING.to_owned(), count);
    let total = &stage.total;
    let amount = |name: String, amount: &Amount| {
        let share = |of: fn(&Amount) -> f64| percent(of(amount), of(total));
        let learnt = match (amount.target_tokens, total.target_tokens) {
            (Some(part), Some(whole)) => percent(part, whole),
            _ => NOTHING.to_owned(),
        };
        vec![
            name,
            count(amount.examples),
            share(|a| a.examples),
            duration(amount.seconds),
            share(|a| a.seconds),
            tokens(amount),
            learnt,
        ]
    };
    for share in &stage.shares {
        let name = match share.label_name(population) {
            None => population.tasks[share.task].clone(),
            Some(label) => format!("  {label}"),
        };
        let Reach {
            num_rows,
            num_drawn,
            most,
        } = share.reach;
        let per_row = format!("{:.2}", share.amount.examples / num_drawn.max(1) as f64);
        let reach = [
            count(num_rows as f64),
            count(num_drawn as f64),
            percent(num_drawn as f64, num_rows as f64),
            per_row,
            count(most as f64),
        ];
        table.rows.push(
            amount(name, &share.amount)
                .into_iter()
                .chain(reach)
                .collect(),
        );
    }
    if stage
        .shares
        .iter()
        .filter(|share| share.label.is_none())
        .count()
        > 1
    {
        table.rows.push(amount("all".to_owned(), total));
    }
    table
}

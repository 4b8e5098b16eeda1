//! Scores of an instruction suite as a table, alone or beside those of the model before it was
//! tuned.

use crate::eval::instructions::score;
use crate::eval::instructions::score::Constant;
use crate::records::instructions::Change;
use crate::records::instructions::InstructionScores;
use crate::records::instructions::Rates;
use crate::records::instructions::Spread;
use crate::records::instructions::TaskWordings;
use crate::text_table::TextTable;

/// The table of one model: kinds and all rows with the best constant answer below, then checks,
/// then the spread over wordings.
pub fn of(scores: &InstructionScores, constant: Option<&Constant>) -> String {
    let head = [
        "",
        "rows",
        "strict",
        "95 % interval",
        "loose",
        "strict and right",
        "checks",
        "strict",
        "loose",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(scores.kinds.iter().map(|(kind, rates)| line(kind, rates)));
    lines.push(line(ALL, &scores.all));
    lines.extend(constant.map(|constant| line(FLOOR, &constant.scores.all)));
    let by_kind = aligned(lines);
    let floor = constant.map_or(String::new(), |constant| against(constant, scores));
    let head = ["check", "asked", "strict", "loose"]
        .map(str::to_owned)
        .to_vec();
    let checks = scores.checks.iter().map(|(name, rate)| {
        vec![
            name.clone(),
            rate.asked.to_string(),
            percent(rate.strict),
            percent(rate.loose),
        ]
    });
    format!(
        "{by_kind}{floor}\n{}{}",
        aligned(std::iter::once(head).chain(checks).collect()),
        wordings(scores)
    )
}

fn line(name: &str, rates: &Rates) -> Vec<String> {
    let interval = rates.interval.map_or("-".to_owned(), |found| {
        format!("{:.1} to {:.1}", 100.0 * found.low, 100.0 * found.high)
    });
    let right = match rates.known {
        0 => "-".to_owned(),
        known => format!("{} of {known}", percent(rates.followed_and_right)),
    };
    vec![
        name.to_owned(),
        rates.prompts.to_string(),
        percent(rates.prompt_strict),
        interval,
        percent(rates.prompt_loose),
        right,
        rates.instructions.to_string(),
        percent(rates.instruction_strict),
        percent(rates.instruction_loose),
    ]
}

/// What the best constant answer is, and whether the model follows more rows than it.
fn against(constant: &Constant, scores: &InstructionScores) -> String {
    let change = score::change(&constant.scores, scores);
    format!(
        "{FLOOR}: `{}`; rows that only it follows: {}, that only the model follows: {}, {}\n",
        constant.answer,
        change.lost.len(),
        change.gained.len(),
        tested(&change)
    )
}

/// The p-value of a change, and its interval where there is one.
fn tested(change: &Change) -> String {
    let p = match change.p {
        None => "p unknown".to_owned(),
        Some(p) if p < 0.001 => "p < 0.001".to_owned(),
        Some(p) => format!("p = {p:.3}"),
    };
    match change.interval {
        Some(found) => format!(
            "{p} (McNemar); difference {:+.1} points, 95 % interval {:+.1} to {:+.1}",
            100.0 * change.difference,
            100.0 * found.low,
            100.0 * found.high
        ),
        None => format!("{p} (McNemar)"),
    }
}

/// Two models side by side: rows whose checks all hold, before and after tuning, strictly and
/// loosely.
pub fn beside(base: &InstructionScores, tuned: &InstructionScores) -> String {
    let head = [
        "",
        "rows",
        "base strict",
        "strict",
        "change",
        "base loose",
        "loose",
        "change",
    ]
    .map(str::to_owned)
    .to_vec();
    let kinds = base
        .kinds
        .iter()
        .zip(tuned.kinds.iter())
        .map(|((kind, before), (_, after))| line_beside(kind, before, after));
    let table = aligned(
        std::iter::once(head)
            .chain(kinds)
            .chain([line_beside(ALL, &base.all, &tuned.all)])
            .collect(),
    );

    let change = score::change(base, tuned);
    format!(
        "{table}\nrows that only the base follows: {}; rows that only the tuned model follows: {}; {}\n",
        change.lost.len(),
        change.gained.len(),
        tested(&change)
    )
}

fn line_beside(name: &str, before: &Rates, after: &Rates) -> Vec<String> {
    let change = |before: f64, after: f64| format!("{:+.1}", 100.0 * (after - before));
    vec![
        name.to_owned(),
        after.prompts.to_string(),
        percent(before.prompt_strict),
        percent(after.prompt_strict),
        change(before.prompt_strict, after.prompt_strict),
        percent(before.prompt_loose),
        percent(after.prompt_loose),
        change(before.prompt_loose, after.prompt_loose),
    ]
}

/// The name of the line over all rows, and of the one for the best constant answer.
const ALL: &str = "all";
const FLOOR: &str = "best constant answer";

fn wordings(scores: &InstructionScores) -> String {
    scores
        .wordings
        .iter()
        .map(|(task, found)| wordings_of(task, found))
        .collect()
}

/// The wordings of one task: how many there are, and the spread of what is known.
fn wordings_of(task: &str, found: &TaskWordings) -> String {
    let right = found
        .right
        .as_ref()
        .map(|spread| spread_line("right", spread))
        .unwrap_or_default();
    format!(
        "\n{task} in {} wordings, {} rows\n{}{right}",
        found.wordings,
        found.prompts,
        spread_line("followed", &found.followed)
    )
}

fn spread_line(name: &str, spread: &Spread) -> String {
    let (lowest, lowest_share) = &spread.lowest;
    let (highest, highest_share) = &spread.highest;
    format!(
        "  {name}: mean {}, deviation {}, {} ({lowest}) to {} ({highest})\n",
        percent(spread.mean),
        percent(spread.deviation),
        percent(*lowest_share),
        percent(*highest_share)
    )
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Lines of cells as columns: the first to the left, the others to the right.
fn aligned(lines: Vec<Vec<String>>) -> String {
    TextTable::new(1, lines).brief().text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::instructions::row::SuiteRow;
    use crate::eval::instructions::score::constant;
    use crate::eval::instructions::score::score;

    fn suite() -> Vec<SuiteRow> {
        let row = |id: &str, kind: &str, checks: serde_json::Value| {
            let row = serde_json::json!({"id": id, "kind": kind, "asks": "emotion", "wording": "emotion/dev/en/1", "checks": checks, "right": {"check": "one-of", "answers": ["sad"]}});
            serde_json::from_value(row).unwrap()
        };
        let label = || serde_json::json!([{"check": "one-of", "answers": ["happy", "sad"]}]);
        let two = serde_json::json!([{"check": "no-punctuation"}, {"check": "at-most-words", "words": 2}]);
        vec![
            row("a", "label", label()),
            row("b", "combined", two),
            row("c", "wording", label()),
        ]
    }

    #[test]
    fn one_model() {
        let expected = "
                      rows   strict  95 % interval    loose  strict and right  checks   strict    loose
label                    1  100.0 %              -  100.0 %        0.0 % of 1       1  100.0 %  100.0 %
combined                 1    0.0 %              -  100.0 %        0.0 % of 1       2   50.0 %  100.0 %
wording                  1  100.0 %              -  100.0 %        0.0 % of 1       1  100.0 %  100.0 %
all                      3   66.7 %              -  100.0 %        0.0 % of 3       4   75.0 %  100.0 %
best constant answer     3  100.0 %              -  100.0 %        0.0 % of 3       4  100.0 %  100.0 %
best constant answer: `happy`; rows that only it follows: 1, that only the model follows: 0, p = 1.000 (McNemar)

check           asked   strict    loose
at-most-words       1  100.0 %  100.0 %
no-punctuation      1    0.0 %  100.0 %
one-of              2  100.0 %  100.0 %

emotion in 1 wordings, 1 rows
  followed: mean 100.0 %, deviation 0.0 %, 100.0 % (emotion/dev/en/1) to 100.0 % (emotion/dev/en/1)
  right: mean 0.0 %, deviation 0.0 %, 0.0 % (emotion/dev/en/1) to 0.0 % (emotion/dev/en/1)
";
        let scores = score(&suite(), &["happy", "*one* two", "happy"]);
        let constant = constant(&suite());
        assert_eq!(format!("\n{}", of(&scores, constant.as_ref())), expected);
    }

    #[test]
    fn before_and_after() {
        let expected = "
          rows  base strict   strict  change  base loose    loose  change
label        1      100.0 %    0.0 %  -100.0     100.0 %    0.0 %  -100.0
combined     1        0.0 %  100.0 %  +100.0     100.0 %  100.0 %    +0.0
wording      1      100.0 %  100.0 %    +0.0     100.0 %  100.0 %    +0.0
all          3       66.7 %   66.7 %    +0.0     100.0 %   66.7 %   -33.3

rows that only the base follows: 1; rows that only the tuned model follows: 1; p = 1.000 (McNemar)
";
        let base = score(&suite(), &["happy", "*one* two", "happy"]);
        let tuned = score(&suite(), &["hello", "one two", "sad"]);
        assert_eq!(format!("\n{}", beside(&base, &tuned)), expected);
    }
}

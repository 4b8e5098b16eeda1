//! A description of a data set as text.

use crate::arabic;
use crate::describe::Count;
use crate::describe::Distribution;
use crate::describe::Stats;
use maqam_base::text_table::NOTHING;
use maqam_base::text_table::counted;

/// Values of a field that the text shows.
const MOST_SHOWN: usize = 12;

/// Totals, then values, then lengths.
pub fn text(stats: &Stats) -> String {
    let is_unknown = stats.rows_without_length > 0 && stats.hours == 0.0;
    let hours = match is_unknown {
        true => "unknown hours".to_owned(),
        false => format!("{:.2} hours", stats.hours),
    };
    let mut text = format!(
        "{}, {}, {hours}, {}, {}\n",
        counted(stats.rows, "row"),
        counted(stats.clips, "clip"),
        counted(stats.speakers, "speaker"),
        counted(stats.groups, "group")
    );
    for (number, what) in [
        (stats.rows_without_audio, "without audio"),
        (
            stats.rows_without_length,
            "without a stated length (`duration`): the hours leave them out",
        ),
    ] {
        if number > 0 {
            text += &format!("{} {what}\n", counted(number, "row"));
        }
    }
    for (name, counts) in [
        ("split", &stats.splits),
        ("task", &stats.tasks),
        ("language", &stats.languages),
        ("label", &stats.labels),
        (arabic::FIELD, &stats.normalisations),
    ] {
        text += &values(name, counts, is_unknown);
    }
    text += &format!(
        "\n{:<24}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
        "", "mean", "least", "5 %", "median", "95 %", "greatest"
    );
    for (name, found) in [
        ("seconds", &stats.seconds),
        ("audio tokens", &stats.audio_tokens),
        ("target tokens", &stats.target_tokens),
        ("target words", &stats.target_words),
        ("target characters", &stats.target_characters),
        ("letters per second", &stats.letters_per_second),
    ] {
        text += &found
            .as_ref()
            .map(|found| distribution(name, found))
            .unwrap_or_default();
    }
    let all = stats
        .target_characters
        .as_ref()
        .map_or(0, |found| found.count);
    let spellings: Vec<String> = stats
        .spellings
        .iter()
        .filter(|(_, number)| *number > 0)
        .map(|(name, number)| format!("{} {number}", name.replace('_', " ")))
        .collect();
    if !spellings.is_empty() {
        text += &format!("\nof {all} targets hold: {}\n", spellings.join(", "));
    }
    text += "\nestimated cost of an epoch of adapters\n";
    for cost in &stats.costs {
        text += &format!(
            "  {}: {} decoder tokens, {:.2} PFLOP, {:.2} hours of an H100 at 40 %\n",
            cost.model, cost.decoder_tokens, cost.petaflop, cost.gpu_hours
        );
    }
    text
}

/// Rows and hours by value; `is_unknown` says that no hours are known.
fn values(name: &str, counts: &[(String, Count)], is_unknown: bool) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{name:<24}{:>10}{:>10}\n", "rows", "hours");
    for (value, count) in counts.iter().take(MOST_SHOWN) {
        let hours = match is_unknown {
            true => NOTHING.to_owned(),
            false => format!("{:.2}", count.seconds / 3600.0),
        };
        text += &format!("  {value:<22}{:>10}{hours:>10}\n", count.rows);
    }
    if counts.len() > MOST_SHOWN {
        text += &format!("  and {} more\n", counts.len() - MOST_SHOWN);
    }
    text
}

fn distribution(name: &str, found: &Distribution) -> String {
    let numbers = [
        found.mean,
        found.min,
        found.p5,
        found.median,
        found.p95,
        found.max,
    ];
    let numbers: String = numbers
        .iter()
        .map(|value| format!("{value:>10.2}"))
        .collect();
    format!("{name:<24}{numbers}\n")
}

//! What a run is, in a few numbers and words: its size, its recipe, what was trained.

use crate::chart::number;
use crate::chart::number::Unit;
use crate::page::Block;
use crate::page::Fact;
use crate::page::Section;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Table;
use crate::sections::provenance;
use maqam_base::parts::Part;
use maqam_records::environment::Provenance;
use maqam_records::run_folder::Run;
use maqam_records::scores::MEAN;

/// The numbers of a run that are seen first.
pub fn facts(run: &Run) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(log) = run.log.as_ref().filter(|log| log.steps > 0) {
        let seen = log.seen();
        facts.push(Fact::new(
            number::count(log.steps as f64),
            "optimiser steps",
        ));
        facts.push(Fact::new(number::count(seen.examples), "examples"));
        facts.push(Fact::new(number::duration(seen.seconds), "of audio"));
        facts.push(Fact::new(
            number::count(seen.target_tokens),
            "target tokens",
        ));
        facts.push(Fact::new(
            log.tasks().len().to_string(),
            if log.tasks().len() == 1 {
                "task"
            } else {
                "tasks"
            },
        ));
        if log.skipped > 0 {
            facts.push(Fact::new(number::count(log.skipped as f64), "rows skipped"));
        }
    }
    facts.extend(provenance::wall_time(&run.provenance).map(|time| Fact::new(time, "wall time")));
    let course = run.course(MEAN);
    if let (Some(first), Some(last)) = (course.first(), course.last()) {
        let value = |value: f64| Unit::Percent.format(value);
        let label = if course.len() > 1 {
            format!("mean score, first {} %", value(first.1))
        } else {
            "mean score".to_owned()
        };
        facts.push(Fact::new(format!("{} %", value(last.1)), label));
    }
    facts
}

/// One line that says what the run started from and where it is.
pub fn subtitle(run: &Run) -> String {
    let model = run
        .recipe
        .as_ref()
        .and_then(|recipe| recipe.get("model.path"));
    match model {
        Some(model) => format!("{model} · {}", run.folder.display()),
        None => run.folder.display().to_string(),
    }
}

/// The parts of the model with how each is trained: `audio encoder lora, decoder full`; what is
/// frozen is left out.
pub fn trained(run: &Run) -> String {
    let Some(recipe) = &run.recipe else {
        return String::new();
    };
    let how = |part: &Part| {
        recipe
            .get(&format!("train.{}", part.name()))
            .filter(|how| *how != "frozen")
            .map(|how| format!("{} {how}", part.name().replace('_', " ")))
    };
    let parts: Vec<String> = Part::ALL.iter().filter_map(how).collect();
    let same = ["full", "lora"]
        .into_iter()
        .find(|how| parts.len() == Part::ALL.len() && parts.iter().all(|part| part.ends_with(how)));
    same.map_or_else(|| parts.join(", "), |how| format!("all parts, {how}"))
}

/// The recipe: what matters most as a list, all of it folded away.
pub fn recipe(run: &Run, id: String) -> Section {
    let mut section = Section::new(id, "Recipe", Vec::new());
    let Some(recipe) = &run.recipe else {
        return section;
    };
    let mut list = Vec::new();
    let mut put = |name: &str, value: Option<String>| {
        list.extend(
            value
                .filter(|value| !value.is_empty())
                .map(|value| (name.to_owned(), value)),
        )
    };
    let get = |key: &str| recipe.get(key).map(str::to_owned);
    put("model", get("model.path"));
    put("trained", Some(trained(run)));
    if trained(run).contains("lora") {
        put(
            "adapters",
            get("lora.rank").map(|rank| {
                format!(
                    "rank {rank}, alpha {}, {}",
                    get("lora.alpha").unwrap_or_default(),
                    get("lora.targets").unwrap_or_default()
                )
            }),
        );
    }
    put("examples a step", get("schedule.batch"));
    put(
        "learning rate",
        get("optimiser.learning_rate")
            .map(|rate| format!("{rate}, {}", get("optimiser.schedule").unwrap_or_default())),
    );
    put(
        "loss",
        get("loss.normalise").map(|normalise| format!("normalised by {normalise}")),
    );
    let manifests = recipe
        .values
        .iter()
        .filter(|(key, _)| key.starts_with("data.") && key.ends_with(".manifest"))
        .map(|(_, value)| value.clone());
    put("data", Some(manifests.collect::<Vec<_>>().join(", ")));
    put("suite", get("evaluate.suite"));
    put("seed", get("seed"));
    section.blocks.push(Block::Facts(list));
    section.blocks.push(Block::Folded(
        "recipe.yaml, every default written out".to_owned(),
        vec![Block::Code(recipe.text.clone())],
    ));
    section
}

/// One row a run: what each saw and trained.
pub fn table_of_runs(runs: &[Run], names: &[String]) -> Table {
    let mut columns = vec![
        Column::text("run"),
        Column::number("steps"),
        Column::number("examples"),
        Column::number("audio hours"),
        Column::number("target tokens"),
        Column::text("trained"),
        Column::number("seed"),
        Column::number("scored after"),
    ];
    let told: [(&str, fn(&Provenance) -> Option<String>); 4] = [
        ("wall time", provenance::wall_time),
        ("throughput", provenance::throughput),
        ("machine", provenance::machine),
        ("maqam", provenance::build),
    ];
    // What no run says has no column.
    let told: Vec<_> = told
        .into_iter()
        .filter(|(_, of)| runs.iter().any(|run| of(&run.provenance).is_some()))
        .collect();
    columns.extend(told.iter().map(|(name, _)| Column::text(*name)));
    let mut table = Table::new(
        "runs",
        "The runs",
        "Scores are those of the last evaluation.",
        columns,
    );
    for (run, name) in runs.iter().zip(names) {
        let log = run.log.as_ref();
        let count = |value: Option<f64>| {
            value.map_or(Cell::Empty, |value| Cell::number(value, Unit::Count))
        };
        let seen = log.map(|log| log.seen());
        let found = told
            .iter()
            .map(|(_, of)| of(&run.provenance).map_or(Cell::Empty, Cell::text));
        let mut row = vec![
            Cell::text(name),
            count(log.map(|log| log.steps as f64)),
            count(seen.map(|seen| seen.examples)),
            seen.map_or(Cell::Empty, |seen| {
                Cell::number(seen.seconds / 3600.0, Unit::Plain)
            }),
            count(seen.map(|seen| seen.target_tokens)),
            Cell::text(trained(run)),
            run.recipe
                .as_ref()
                .and_then(|recipe| recipe.get("seed"))
                .map_or(Cell::Empty, Cell::text),
            count(run.last().map(|last| last.step as f64)),
        ];
        row.extend(found);
        table.row(false, row);
    }
    table
}

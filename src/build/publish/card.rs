//! The dataset card: `README.md` as the Hugging Face Hub reads it.

use serde_json::Value;
use serde_json::json;

use crate::audio::SAMPLE_RATE;
use crate::build::publish::page;
use crate::build::publish::parquet::Column;
use crate::build::publish::parquet::columns;
use crate::build::publish::row::Publishing;
use crate::build::publish::statistics::NOT_STATED;
use crate::build::publish::statistics::Statistics;
use crate::build::recipe::Recipe;
use crate::build::settings::publish::Format;
use crate::build::settings::speak::Engine;
use crate::error::Error;
use crate::error::Result;

/// Licences of the Hub, among those of texts.
const KNOWN_LICENCES: [&str; 10] = [
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc0-1.0",
    "cc-by-3.0",
    "cc-by-sa-3.0",
    "apache-2.0",
    "mit",
    "odc-by",
];

/// The dataset card.
pub(super) fn card(publishing: &Publishing, statistics: &Statistics) -> Result<String> {
    let recipe = publishing.recipe;
    let mut text = format!("---\n{}---\n\n", head(publishing, statistics)?);
    text += &format!("# {}\n\n", recipe.name);
    text += &format!(
        "{} spoken documents with transcripts and summaries, {:.2} hours, built from text by maqam {} in the style of Mega-SSum and AraMega-SSum. How AraMega-SSum itself was made is not public. The speech is synthetic.\n\n",
        statistics.num_published(),
        statistics.seconds() / 3600.0,
        env!("CARGO_PKG_VERSION"),
    );
    text += &section("Sources and licences", &sources(publishing, statistics));
    text += &section("Splits", &page::splits(statistics).markdown());
    text += &section("Known limits", &list(&limits(publishing, statistics)));
    text += &section(
        "What became of the documents",
        &format!(
            "{}\n`rows.jsonl` has the state of every document, `rejected.jsonl` the reason of every rejection. Collected = published + rejected.\n",
            page::rejections(statistics).markdown()
        ),
    );
    text += &section("Summaries", &summaries(publishing, statistics));
    text += &section("Speech", &speech(publishing, statistics));
    text += &section("Fields", &fields(recipe));
    text += &section(
        "Plots",
        "![Length of recordings](plots/durations.svg)\n\nAll distributions are in `report.html`.\n",
    );
    text += &section(
        "Check sums",
        "`checksums.txt` has the BLAKE3 sum of every file of the data (`b3sum -c checksums.txt`).\n",
    );
    text += &section(
        "Recipe",
        "`recipe.yaml` builds the set again: `maqam build recipe.yaml`.\n",
    );
    Ok(text)
}

fn fields(recipe: &Recipe) -> String {
    let formats = &recipe.publish.formats;
    let has = |format| formats.contains(&format);
    let first = match has(Format::Parquet) {
        true => PARQUET_FIELDS,
        false => MANIFEST_FIELDS,
    };
    let mut text = format!("{first}{FIELDS}\n\n{MANIFEST}");
    for (format, files) in [
        (Format::Parquet, " Train on `data/train-*.parquet`."),
        (
            Format::WebDataset,
            " `webdataset/` has a `.flac` and a `.json` with these fields for each row.",
        ),
        (
            Format::Shar,
            " `shar/` has the cuts and recordings of each split for Lhotse.",
        ),
    ] {
        if has(format) {
            text += files;
        }
    }
    text
}

const PARQUET_FIELDS: &str = "\
`id`; `audio` (FLAC, 16 kHz, mono, 16 bits); `transcription`, the text as it is written; `summary`, and `summary1` on where there are several; ";

const MANIFEST_FIELDS: &str = "\
`id`; `audio`, the path of a FLAC file (16 kHz, mono, 16 bits); `text`, as it is written; `summary`, and `references` where there are several; ";

const FIELDS: &str = "\
`language`; `speaker`, the voice; `duration` in seconds; `group`, rows that belong together; `spoken_text`, the text as it was read, with numbers and Latin words written out; `sentences` with `sentence_start_s` and `sentence_end_s`, for sentence-wise summarization; `source`; `license`.";

const MANIFEST: &str =
    "`manifest.jsonl` has the rows of all splits, with paths of their recordings in `audio/`.";

fn section(title: &str, body: &str) -> String {
    format!("## {title}\n\n{}\n\n", body.trim_end())
}

fn list(entries: &[String]) -> String {
    entries.iter().map(|entry| format!("- {entry}\n")).collect()
}

/// The YAML that the Hub reads.
fn head(publishing: &Publishing, statistics: &Statistics) -> Result<String> {
    let recipe = publishing.recipe;
    let formats = &recipe.publish.formats;
    let has_parquet = formats.contains(&Format::Parquet);
    let pattern = |name: &str| match has_parquet {
        true => format!("data/{name}-*.parquet"),
        false => format!("webdataset/{name}-*.tar"),
    };
    let files: Vec<Value> = statistics
        .splits()
        .map(|(name, _)| json!({"split": name, "path": pattern(name)}))
        .collect();
    let size = match statistics.num_published() {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        _ => "1M<n<10M",
    };
    let mut head = json!({
        "language": [recipe.language().split('-').next()],
        "pretty_name": recipe.name,
        "task_categories": ["summarization", "automatic-speech-recognition"],
        "tags": ["speech-summarization", "synthetic-speech", "maqam"],
        "size_categories": [size],
    });
    // The Hub does not read the files of Lhotse.
    if has_parquet || formats.contains(&Format::WebDataset) {
        head["configs"] = json!([{"config_name": "default", "data_files": files}]);
    }
    if has_parquet {
        head["dataset_info"] = json!({"features": features(recipe)});
    }
    let licences = licences(publishing, statistics);
    let known: Vec<String> = licences
        .iter()
        .map(|licence| licence.to_lowercase())
        .filter(|licence| KNOWN_LICENCES.contains(&licence.as_str()))
        .collect();
    match (licences.as_slice(), known.as_slice()) {
        ([], _) => head["license"] = json!("unknown"),
        ([_], [known]) => head["license"] = json!(known),
        (all, known) if all.len() == known.len() => head["license"] = json!(known),
        (all, _) => {
            head["license"] = json!("other");
            head["license_name"] = json!(all.join(", "));
        }
    }
    yaml_serde::to_string(&head).map_err(Error::bug_from)
}

/// Names and types of the columns, as the Hub writes them.
fn features(recipe: &Recipe) -> Vec<Value> {
    columns(recipe)
        .into_iter()
        .map(|(name, of)| match of {
            Column::Text => json!({"name": name, "dtype": "string"}),
            Column::Number => json!({"name": name, "dtype": "float64"}),
            Column::TextList => json!({"name": name, "sequence": "string"}),
            Column::NumberList => json!({"name": name, "sequence": "float64"}),
            Column::Audio => {
                json!({"name": name, "dtype": {"audio": {"sampling_rate": SAMPLE_RATE}}})
            }
        })
        .collect()
}

/// Licences of the set: the one that the recipe states, else those of the rows. Empty if no row has
/// one.
fn licences(publishing: &Publishing, statistics: &Statistics) -> Vec<String> {
    if let Some(licence) = &publishing.recipe.publish.licence {
        return vec![licence.clone()];
    }
    let of_rows: Vec<String> = statistics.licences.keys().cloned().collect();
    match of_rows.as_slice() {
        [only] if only == NOT_STATED => Vec::new(),
        _ => of_rows,
    }
}

fn sources(publishing: &Publishing, statistics: &Statistics) -> String {
    let recipe = publishing.recipe;
    let mut text = String::new();
    if let Some(credit) = &recipe.collect.credit {
        text += &format!("Texts: {credit}.\n\n");
    }
    let files: Vec<String> = recipe
        .collect
        .from
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    text += &format!(
        "Files: {}; unit: `{}`.\n\n",
        files.join(", "),
        recipe.collect.unit
    );
    for (licence, num) in &statistics.licences {
        text += &format!("- {licence}: {num} rows\n");
    }
    let licences = licences(publishing, statistics);
    let is_share_alike = |licence: &str| licence.to_lowercase().contains("-sa");
    if licences
        .iter()
        .chain(statistics.licences.keys())
        .any(|licence| is_share_alike(licence))
    {
        text += "\nA licence is a share-alike one: it carries over to this set and to what is made of it.\n";
    }
    text
}

fn limits(publishing: &Publishing, statistics: &Statistics) -> Vec<String> {
    let recipe = publishing.recipe;
    let mut limits = Vec::new();
    match publishing.engines.transcription["recogniser"].as_str() {
        None => limits.push("Intelligibility not verified: no recogniser listened to the speech.".to_owned()),
        Some(recogniser) => limits.push(format!(
            "Intelligibility is what {recogniser} makes of the speech: rows stay up to a character error rate of {:.2} above its {:.2} on real speech.",
            recipe.listen.over_floor,
            recipe.listen.floor_cer.unwrap_or(0.0),
        )),
    }
    limits.push("Not rated by people: `review.html` is a form for that.".to_owned());
    let real = |split: &str| {
        statistics
            .real
            .as_ref()
            .and_then(|counts| counts.get(split).copied())
            .unwrap_or(0)
    };
    let dev = real("dev");
    let test = real("test");
    limits.push(format!("Real recordings: {dev} in dev, {test} in test."));
    if dev == 0 || test == 0 {
        limits.push(
            "**Warning**: without real recordings in dev and test, scores on this set say how well a model follows synthetic voices. Choose models on real speech, at least 100 recordings."
                .to_owned(),
        );
    }
    if statistics.voices_overlap() {
        limits.push(
            "Some voices speak in more than one split: there were fewer voices than splits."
                .to_owned(),
        );
    }
    limits.extend(publishing.notes.iter().cloned());
    let num_voices = statistics.voices.len();
    if recipe.speak.engine == Engine::EspeakNg && num_voices > 1 {
        limits.push(format!(
            "The {num_voices} voices are settings of one synthesiser, espeak-ng, or filters of its sound (`ar+f2`), not {num_voices} speakers."
        ));
    }
    limits.extend(matching(recipe, statistics));
    if recipe.language().starts_with("ar") && recipe.speak.diacritiser.is_empty() {
        limits.push(
            "Short vowels are not written, so the speech engine guesses them; no diacritiser was used."
                .to_owned(),
        );
    }
    if recipe.speak.verbalise && recipe.language().starts_with("ar") {
        limits.push(
            "Numbers were written out by rules: their gender follows the ending of the next word, their case is the oblique."
                .to_owned(),
        );
    }
    limits
}

/// Rows that `match` compared with fewer texts than requested, or not at all.
fn matching(recipe: &Recipe, statistics: &Statistics) -> Vec<String> {
    let wanted = recipe.listen.num_matched;
    let compared = &statistics.compared_texts;
    let mut notes = Vec::new();
    if let Some(num) = compared.get(&0) {
        notes.push(format!(
            "`match` did not check {num} rows: no other text is about as long, or every sentence is longer than a window."
        ));
    }
    let fewer: usize = compared
        .iter()
        .filter(|(num, _)| (1..wanted).contains(*num))
        .map(|(_, rows)| rows)
        .sum();
    if fewer > 0 {
        notes.push(format!(
            "`match` compared {fewer} rows with fewer texts than the {wanted} of the recipe: few others are about as long."
        ));
    }
    notes
}

fn summaries(publishing: &Publishing, statistics: &Statistics) -> String {
    let engines = &publishing.engines.summaries;
    let mut text = format!(
        "Engine: `{}`.",
        engines["engine"].as_str().unwrap_or_default()
    );
    for (role, name) in [("language_model", "Model"), ("translation", "Translation")] {
        if let Some(model) = engines[role]["model"].as_str() {
            text += &format!(
                " {name}: `{model}`, parameters `{}`.",
                engines[role]["parameters"]
            );
        }
    }
    let judge = &publishing.engines.judge;
    if let Some(model) = judge["model"].as_str() {
        let num = statistics.grades.len().max(1);
        let mean = statistics.grades.iter().sum::<f64>() / num as f64;
        text += &format!(
            " Judge of faithfulness: `{model}`, parameters `{}`, lowest accepted grade {} of 5; {} rows are graded, by their worst summary, with a mean of {mean:.2}.",
            judge["parameters"],
            judge["min_grade"],
            statistics.grades.len()
        );
    }
    text += "\n\n";
    text += &page::copying(statistics).markdown();
    if !statistics.num_warnings.is_empty() {
        text += "\nFaults that did not reject a row:\n\n";
        for (reason, num) in &statistics.num_warnings {
            text += &format!("- `{reason}`: {num} summaries\n");
        }
    }
    for (described, of) in [
        (&engines["language_model"], "summaries"),
        (&engines["translation"], "translations"),
        (judge, "the judge"),
    ] {
        let Some(prompts) = described["prompts"].as_object() else {
            continue;
        };
        let language = publishing
            .recipe
            .language()
            .split('-')
            .next()
            .unwrap_or_default();
        if let Some(prompt) = prompts.get(language) {
            text += &format!(
                "\nPrompt of {of} ({language}):\n\n```text\n{}\n\n{}\n```\n",
                prompt["system"].as_str().unwrap_or_default(),
                prompt["user"].as_str().unwrap_or_default()
            );
        }
    }
    text
}

fn speech(publishing: &Publishing, statistics: &Statistics) -> String {
    let engine = &publishing.engines.speech;
    let versions: Vec<String> = statistics
        .engines
        .keys()
        .map(|version| format!("`{version}`"))
        .collect();
    format!(
        "Engine: `{}`, version {}; pauses of about {} s between sentences.\n\n{}",
        engine["engine"].as_str().unwrap_or_default(),
        versions.join(" and "),
        engine["pause_s"],
        page::voices(statistics).markdown()
    )
}

//! `maqam judge`: summaries graded by a model behind an endpoint.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::cli::print;
use crate::cli::progress::Progress;
use crate::endpoint::bill::Bill;
use crate::endpoint::bill::Limits;
use crate::endpoint::bill::Prices;
use crate::endpoint::key::Key;
use crate::endpoint::patience::Patience;
use crate::endpoint::request::Endpoint;
use crate::error::Error;
use crate::error::Result;
use crate::eval::judge::Judge;
use crate::eval::judge::Outcome;
use crate::eval::judge::Progress as Told;
use crate::eval::judge::Verdicts;
use crate::eval::judge::cache::Cache;
use crate::eval::judge::rubric::Item;
use crate::eval::judge::rubric::Rubric;
use crate::files;
use crate::jsonl;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    /// Summaries to grade, JSON lines: id, prediction.
    #[arg(long)]
    predictions: PathBuf,
    /// Texts that were summarised: a manifest with `id` and `text`, or a field of the predictions (`source`, `meta.text`).
    #[arg(long)]
    sources: String,
    /// Rubric, a YAML file [default: eval/judges/summary.yaml, which is built in].
    #[arg(long)]
    rubric: Option<PathBuf>,
    /// URL of an OpenAI-compatible endpoint, up to /v1. The key is read from the environment variable that the rubric names.
    #[arg(long)]
    endpoint: String,
    /// Model to ask [default: the rubric's].
    #[arg(long)]
    model: Option<String>,
    /// Output, JSON lines: id, grades, reason, tokens; `fault` if no answer could be used.
    #[arg(long)]
    out: PathBuf,
    /// Cache of verdicts, JSON lines [default: judge-cache.jsonl beside the output].
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Requests at a time.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Longest time of one request, in seconds.
    #[arg(long, default_value_t = Patience::default().timeout.as_secs_f64())]
    timeout_s: f64,
    /// First wait after a failure, in seconds. It doubles with each.
    #[arg(long, default_value_t = Patience::default().first_wait.as_secs_f64())]
    wait_s: f64,
    /// Dollars per million prompt tokens [default: the rubric's].
    #[arg(long, alias = "prompt-price", allow_negative_numbers = true)]
    price_in: Option<f64>,
    /// Dollars per million response tokens [default: the rubric's].
    #[arg(long, alias = "completion-price", allow_negative_numbers = true)]
    price_out: Option<f64>,
    /// Most requests, failed ones included.
    #[arg(long, value_name = "N")]
    max_requests: Option<u64>,
    /// Most tokens, prompts and responses together. Requests under way are finished.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,
    /// Most dollars; needs both prices. Requests under way are finished.
    #[arg(long, value_name = "DOLLARS", allow_negative_numbers = true)]
    max_cost: Option<f64>,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let rubric = Rubric::load(arguments.rubric.as_deref())?;
    let items = arguments.items()?;
    let patience = arguments.patience()?;
    let limits = arguments.limits(&rubric);
    limits.check()?;
    let key = Key::from_variable(&rubric.key_variable)?;
    let model = arguments.model.as_deref().unwrap_or(&rubric.model);
    let endpoint = Endpoint::new(
        &arguments.endpoint,
        model,
        key,
        &rubric.key_variable,
        patience.timeout,
    )?
    .limited(limits);
    let mut cache = Cache::open(
        &arguments
            .cache
            .clone()
            .unwrap_or_else(|| arguments.out.with_file_name("judge-cache.jsonl")),
    )?;
    let judge = Judge {
        rubric: &rubric,
        endpoint: &endpoint,
        patience,
        num_threads: arguments.threads,
    };
    let mut shown = Progress::new("judging", 0, items.len() as u64);
    let mut bill = Bill::default();
    let mut watch = |told: Told| {
        match told {
            Told::Done(done, _) => shown.update(done as u64, ""),
            Told::Waiting { why, wait } => {
                shown.line(&format!("{why}; again in {:.1} s", wait.as_secs_f64()))
            }
        }
        Ok(())
    };
    let verdicts = judge.judge_with_bill(&items, &mut cache, stop, &mut watch, &mut bill);
    shown.finish();
    let verdicts = match verdicts {
        Ok(verdicts) => verdicts,
        Err(error) => {
            print::message(format_args!("spent: {}", spent(&bill, limits.prices)));
            return Err(error);
        }
    };
    write(&arguments.out, &items, &verdicts, &rubric, model)?;
    arguments.report(&verdicts, &rubric, limits.prices)?;
    if let Some(limit) = &verdicts.limit {
        let judged = items.len() - verdicts.num_unusable();
        let found = format!(
            "{limit}: {judged} of {} summaries are judged; spent: {}",
            items.len(),
            spent(&verdicts.bill, limits.prices)
        );
        return Err(Error::resource(found)
            .at_path(&arguments.out)
            .hint("raise the limit and run the command again; what was judged is in the cache and is not asked again"));
    }
    match verdicts.num_unusable() {
        0 => Ok(()),
        count => Err(Error::resource(format!(
            "{count} of {} summaries got no answer that can be used",
            items.len()
        ))
        .at_path(&arguments.out)
        .hint("`fault` says why, row by row; run the command again to ask for these alone")),
    }
}

/// A row of predictions with whatever else it holds.
type Fields = Map<String, Value>;

/// What a run spent, in words.
fn spent(bill: &Bill, prices: Prices) -> String {
    let cost = bill.cost(prices).map_or(
        "cost not known: set prices in the rubric, or --price-in and --price-out".to_owned(),
        |dollars| format!("{dollars:.4} dollars"),
    );
    format!(
        "{} requests, {} + {} tokens, {cost}",
        bill.requests, bill.prompt_tokens, bill.completion_tokens
    )
}

impl Arguments {
    fn limits(&self, rubric: &Rubric) -> Limits {
        Limits {
            max_requests: self.max_requests,
            max_tokens: self.max_tokens,
            max_cost: self.max_cost,
            prices: Prices {
                prompt: self.price_in.or(rubric.prices.prompt),
                completion: self.price_out.or(rubric.prices.completion),
            },
        }
    }

    fn patience(&self) -> Result<Patience> {
        let seconds = |name: &str, value: f64| {
            let length = Duration::try_from_secs_f64(value)
                .ok()
                .filter(|length| !length.is_zero());
            length.ok_or_else(|| Error::input(format!("--{name} {value} is no length of time")))
        };
        if self.threads == 0 {
            return Err(Error::input("--threads 0 asks nothing"));
        }
        Ok(Patience {
            timeout: seconds("timeout-s", self.timeout_s)?,
            first_wait: seconds("wait-s", self.wait_s)?,
            ..Patience::default()
        })
    }

    /// What is judged, in the order of the predictions.
    fn items(&self) -> Result<Vec<Item>> {
        let path = Path::new(&self.sources);
        let is_file = path.is_file()
            || path
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
        let sources = if is_file { Some(texts(path)?) } else { None };
        let rows: Vec<(usize, Fields)> = jsonl::read(&self.predictions)?;
        let mut lines = HashMap::new();
        rows.iter()
            .map(|(line, row)| {
                let place = format!("{}:{line}", self.predictions.display());
                let item = self.item(row, sources.as_ref()).map_err(|e| e.at(&place))?;
                match lines.insert(item.id.clone(), line) {
                    Some(first) => Err(Error::input(format!(
                        "id `{}` was predicted before, in line {first}",
                        item.id
                    ))
                    .at(place)),
                    None => Ok(item),
                }
            })
            .collect()
    }

    fn item(&self, row: &Fields, sources: Option<&HashMap<String, String>>) -> Result<Item> {
        let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
        let needed = |name: &str| {
            text(name).ok_or_else(|| Error::input(format!("`{name}` is missing or no text")))
        };
        let id = needed("id")?;
        let source = match sources {
            Some(texts) => {
                let missing = || {
                    Error::input(format!("row `{id}` has no source in {}", self.sources))
                        .hint("give the manifest that the predictions were made from")
                };
                texts.get(&id).ok_or_else(missing)?.clone()
            }
            None => {
                let mut path = self.sources.split('.');
                let value = path
                    .next()
                    .and_then(|name| row.get(name))
                    .and_then(|first| path.try_fold(first, |value, name| value.get(name)));
                let missing = || {
                    Error::input(format!("the row has no text under `{}`", self.sources))
                        .hint("--sources is a file, or a field of the predictions")
                };
                value
                    .and_then(Value::as_str)
                    .ok_or_else(missing)?
                    .to_owned()
            }
        };
        Ok(Item {
            id,
            source,
            summary: needed("prediction")?,
            reference: text("reference").filter(|text| !text.is_empty()),
        })
    }

    fn report(&self, verdicts: &Verdicts, rubric: &Rubric, prices: Prices) -> Result<()> {
        let (bill, cost) = (verdicts.bill, verdicts.bill.cost(prices));
        let judged = verdicts.outcomes.len() - verdicts.num_unusable();
        let means: Vec<(&str, f64)> = rubric
            .scales
            .iter()
            .map(|scale| scale.name.as_str())
            .zip(verdicts.means().unwrap_or_default())
            .collect();
        if self.json {
            let means: Fields = means
                .iter()
                .map(|(name, mean)| ((*name).to_owned(), (*mean).into()))
                .collect();
            let tokens = json!({"prompt": bill.prompt_tokens, "completion": bill.completion_tokens, "unmetered_requests": bill.unmetered});
            let counts = (verdicts.num_cached, verdicts.num_unusable());
            print::line(format_args!(
                "{}",
                json!({"rubric": rubric.name, "means": means, "judged": judged, "unusable": counts.1, "cached": counts.0, "requests": bill.requests, "tokens": tokens, "dollars": cost})
            ))?;
            return Ok(());
        }
        for (name, mean) in means {
            print::line(format_args!("{name:<16} {mean:.2}"))?;
        }
        print::line(format_args!(
            "{judged} judged, {} without asking; {}",
            verdicts.num_cached,
            spent(&bill, prices)
        ))
    }
}

/// The texts of a manifest by id; its audio is not looked for.
fn texts(path: &Path) -> Result<HashMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Source {
        id: String,
        text: String,
    }
    Ok(jsonl::read::<Source>(path)?
        .into_iter()
        .map(|(_, row)| (row.id, row.text))
        .collect())
}

fn write(
    path: &Path,
    items: &[Item],
    verdicts: &Verdicts,
    rubric: &Rubric,
    model: &str,
) -> Result<()> {
    let line = |(item, outcome): (&Item, &Outcome)| match outcome {
        Outcome::Judged(judged) => {
            let grades: Fields = rubric
                .scales
                .iter()
                .zip(&judged.verdict.grades)
                .map(|(scale, grade)| (scale.name.clone(), (*grade).into()))
                .collect();
            let tokens = judged.usage.map(|usage| json!({"prompt": usage.prompt_tokens, "completion": usage.completion_tokens}));
            json!({"id": item.id, "grades": grades, "reason": judged.verdict.reason, "rubric": rubric.name, "model": model, "tokens": tokens})
        }
        Outcome::Unusable(fault) => {
            json!({"id": item.id, "grades": null, "fault": fault, "rubric": rubric.name, "model": model})
        }
    };
    let text: String = items
        .iter()
        .zip(&verdicts.outcomes)
        .map(|pair| format!("{}\n", line(pair)))
        .collect();
    files::write_atomic(path, text.as_bytes())
}

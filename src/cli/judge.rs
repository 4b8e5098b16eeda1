//! `maqam judge`.

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
use crate::eval::judge::Progress as Told;
use crate::eval::judge::Verdicts;
use crate::eval::judge::cache::Cache;
use crate::eval::judge::rubric::Item;
use crate::eval::judge::rubric::Rubric;
use crate::eval::judge::summaries;
use crate::files;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    /// Summaries to grade, JSON lines: id, prediction.
    #[arg(long)]
    predictions: PathBuf,
    /// Texts that were summarised: a manifest with `id` and `text`, or a field of the predictions
    /// (`source`, `meta.text`).
    #[arg(long)]
    sources: String,
    /// Rubric, a YAML file [default: eval/judges/summary.yaml, which is built in].
    #[arg(long)]
    rubric: Option<PathBuf>,
    /// URL of an OpenAI-compatible endpoint, up to /v1. The key is read from the environment
    /// variable that the rubric names.
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
    let items = summaries::read(&arguments.predictions, &arguments.sources)?;
    let patience = arguments.patience()?;
    let limits = arguments.limits(&rubric);
    limits.check("--max-cost")?;
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
    let mut cache = Cache::open(&arguments.cache_file())?;
    let judge = Judge {
        rubric: &rubric,
        endpoint: &endpoint,
        patience,
        num_threads: arguments.threads,
    };

    let verdicts = judged(&judge, &items, &mut cache, limits.prices, stop)?;
    summaries::write(&arguments.out, &items, &verdicts, &rubric, model)?;
    arguments.report(&verdicts, &rubric, limits.prices)?;
    arguments.check(&verdicts, limits.prices)
}

/// Has the summaries judged; what was spent is printed if that fails.
fn judged(
    judge: &Judge<'_>,
    items: &[Item],
    cache: &mut Cache,
    prices: Prices,
    stop: &Stop,
) -> Result<Verdicts> {
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
    let verdicts = judge.judge_with_bill(items, cache, stop, &mut watch, &mut bill);
    shown.finish();
    if verdicts.is_err() {
        print::message(format_args!("spent: {}", spent(&bill, prices)));
    }
    verdicts
}

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

    fn cache_file(&self) -> PathBuf {
        self.cache
            .clone()
            .unwrap_or_else(|| self.out.with_file_name("judge-cache.jsonl"))
    }

    /// Prints the means and what they rest on.
    fn report(&self, verdicts: &Verdicts, rubric: &Rubric, prices: Prices) -> Result<()> {
        let means: Vec<(&str, f64)> = rubric
            .scales
            .iter()
            .map(|scale| scale.name.as_str())
            .zip(verdicts.means().unwrap_or_default())
            .collect();
        if self.json {
            return print::line(summary(verdicts, rubric, &means, prices));
        }
        for (name, mean) in means {
            print::line(format_args!("{name:<16} {mean:.2}"))?;
        }
        print::line(format_args!(
            "{} judged, {} without asking; {}",
            num_judged(verdicts),
            verdicts.num_cached,
            spent(&verdicts.bill, prices)
        ))
    }

    /// Ends the command.
    ///
    /// # Errors
    /// A limit that was reached; summaries without an answer that can be used.
    fn check(&self, verdicts: &Verdicts, prices: Prices) -> Result<()> {
        let num_items = verdicts.outcomes.len();
        if let Some(limit) = &verdicts.limit {
            let found = format!(
                "{limit}: {} of {num_items} summaries are judged; spent: {}",
                num_judged(verdicts),
                spent(&verdicts.bill, prices)
            );
            return Err(Error::resource(found)
                .at_path(&self.out)
                .hint("raise the limit and run the command again; what was judged is in the cache and is not asked again"));
        }
        match verdicts.num_unusable() {
            0 => Ok(()),
            count => Err(Error::resource(format!(
                "{count} of {num_items} summaries got no answer that can be used"
            ))
            .at_path(&self.out)
            .hint("`fault` says why, row by row; run the command again to ask for these alone")),
        }
    }
}

fn num_judged(verdicts: &Verdicts) -> usize {
    verdicts.outcomes.len() - verdicts.num_unusable()
}

/// The means and what they rest on as one object.
fn summary(verdicts: &Verdicts, rubric: &Rubric, means: &[(&str, f64)], prices: Prices) -> Value {
    let bill = verdicts.bill;
    let means: Map<String, Value> = means
        .iter()
        .map(|(name, mean)| ((*name).to_owned(), (*mean).into()))
        .collect();
    let tokens = json!({"prompt": bill.prompt_tokens, "completion": bill.completion_tokens, "unmetered_requests": bill.unmetered});
    json!({
        "rubric": rubric.name, "means": means, "judged": num_judged(verdicts), "unusable": verdicts.num_unusable(),
        "cached": verdicts.num_cached, "requests": bill.requests, "tokens": tokens, "dollars": bill.cost(prices),
    })
}

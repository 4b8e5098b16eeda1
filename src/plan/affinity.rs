//! Affinity of tasks: how far their gradients on the adapters point the same way at the start of a
//! run, their groups, and stages that introduce the groups one after the other.
//!
//! After GST (arXiv 2605.19101, 2026): gradients of data sets, their pairwise distances, spectral
//! groups, progressive introduction. Its code is not public, so the details here are maqam's own.
//!
//! At the start LoRA's B is zero, so the gradient of A is exactly zero. The gradient of B is
//! `dW^T A^T` up to a scale: a random projection of the gradient of the adapted weight. Inner
//! products are means over several draws of A.

use rayon::prelude::*;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::featurise::Loaded;
use crate::featurise::Loader;
use crate::featurise::rows::Watch;
use crate::loss_weights;
use crate::loss_weights::ClassWeights;
use crate::loss_weights::Counted;
use crate::machine::Available;
use crate::machine::available;
use crate::models::AudioLlm;
use crate::models::EmbeddingNoise;
use crate::models::Pass;
use crate::models::cost::F32;
use crate::nn::lora::Init;
use crate::ops::device::to_host;
use crate::plan::table::Table;
use crate::recipe::Recipe;
use crate::schedule;
use crate::schedule::Schedule;
use crate::schedule::StageSettings;
use crate::schedule::TaskList;
use crate::seed::Key;
use crate::stats::spectral;
use crate::stats::spectral::Groups;
use crate::stats::spectral::Merge;
use crate::task::Mode;
use crate::train::corpus::Corpus;

/// Most rows of a task that are measured.
const ROWS: usize = 64;

/// End of the names of LoRA's B.
const B_NAME: &str = "lora_B.weight";

/// Draws of A.
const DRAWS: u64 = 3;

/// Fewest tasks that are grouped by themselves, if their manifests are more.
const FEW_TASKS: usize = 3;

/// Width of the bar of a dendrogram in text.
const TEXT_WIDTH: usize = 40;

/// Sets of rows that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Rows of a task.
    Task,
    /// Rows of a data entry.
    Manifest,
}

/// Settings of the measurement.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sets of rows; by default tasks, or manifests if there are fewer than three tasks.
    pub by: Option<By>,
    /// Number of groups; by default that of the largest gap between eigenvalues.
    pub groups: Option<usize>,
}

/// Affinity of sets of rows.
pub struct Affinity {
    /// Sets that are compared.
    pub by: By,
    /// Names of the sets.
    pub names: Vec<String>,
    /// Rows of each that were measured.
    pub num_rows: Vec<usize>,
    /// Cosines of gradients, `[n, n]`.
    pub cosines: Vec<f64>,
    /// Cosine of the gradients of two halves of each set: what chance leaves of a cosine of 1.
    pub halves: Vec<f64>,
    /// The groups, in the order of their introduction, with the places of their members.
    pub groups: Vec<Vec<usize>>,
    /// Eigenvalues of the Laplacian, rising.
    pub eigenvalues: Vec<f64>,
    /// Merges of the dendrogram, of distances.
    pub merges: Vec<Merge>,
    /// Stages that introduce the groups, or why they cannot be written.
    pub stages: std::result::Result<String, String>,
    /// What to mind of all this.
    pub warnings: Vec<String>,
}

/// Measures the affinity of the sets of a recipe. The model's adapters are left with another draw of
/// A.
///
/// # Errors
/// A recipe without fresh adapters, or with a single set; rows that cannot be read; what `watch`
/// returns.
pub(super) fn measure(
    recipe: &Recipe,
    corpus: &Corpus,
    schedule: &Schedule,
    (model, loader): (&AudioLlm, &Loader),
    settings: Settings,
    watch: Watch<'_>,
) -> Result<Affinity> {
    if !model.plan.has_adapter() {
        return Err(Error::input(
            "--affinity compares gradients of adapters, and the recipe trains none",
        )
        .hint("train a part through adapters for it: --set train.decoder=lora"));
    }
    if !["default", "gaussian"].contains(&recipe.lora.init.as_str()) {
        return Err(Error::input(format!(
            "--affinity measures fresh adapters, and `lora.init` is `{}`",
            recipe.lora.init
        ))
        .hint("measure at the base: --set lora.init=default"));
    }
    let trained = schedule.all_rows();
    let by = settings.by.unwrap_or_else(|| default_by(corpus, &trained));
    let sets = sets(corpus, &trained, by);
    let n = sets.len();
    if n < 2 {
        return Err(Error::input(format!(
            "--affinity: the recipe's stages draw from {n} set of rows"
        ))
        .hint("add tasks to the stages, or compare manifests: --affinity-by manifest"));
    }
    if settings
        .groups
        .is_some_and(|groups| groups == 0 || groups > n)
    {
        return Err(Error::input(format!(
            "--affinity-groups takes a number from 1 to {n}"
        )));
    }

    let seed = Key::new(recipe.seed, "affinity");
    let mut halves = Vec::with_capacity(2 * n);
    for (_, rows) in &sets {
        let order = seed.permutation(rows.len());
        let chosen = order.iter().take(ROWS).map(|&place| rows[place as usize]);
        let chosen: Vec<u32> = chosen.collect();
        halves.push(chosen.iter().copied().step_by(2).collect::<Vec<u32>>());
        halves.push(chosen.iter().copied().skip(1).step_by(2).collect());
    }
    if let Some(place) = halves.iter().position(Vec::is_empty) {
        return Err(Error::input(format!(
            "--affinity: `{}` has a single row",
            sets[place / 2].0
        ))
        .hint("leave it out: with one row there are no halves to compare"));
    }

    let is_b = |name: &str| name.ends_with(B_NAME);
    let entries = model.parameters.entries.iter();
    let of_b = entries.filter(|entry| is_b(&entry.name));
    let num_numbers = halves.len() * of_b.map(|entry| entry.range.len()).sum::<usize>();
    check_memory(num_numbers, halves.len(), available().map(Available::named))?;

    let mut products = vec![0.0; 4 * n * n];
    let mut num_read = vec![0; halves.len()];
    let total = DRAWS as usize * halves.len();
    for draw in 0..DRAWS {
        model.initialise(Init::Default, seed.with_name("draw").bits(draw))?;
        let mut gradients: Vec<Vec<f32>> = Vec::with_capacity(halves.len());
        for (half, rows) in halves.iter().enumerate() {
            watch(
                "gradients",
                draw as usize * halves.len() + gradients.len(),
                total,
            )?;
            let (found, of_half) = gradient(recipe, corpus, (model, loader), rows)
                .map_err(|e| e.at(format!("--affinity: `{}`", sets[half / 2].0)))?;
            gradients.push(found);
            num_read[half] = of_half;
        }
        add_products(&gradients, &mut products);
    }
    watch("gradients", total, total)?;

    let names: Vec<String> = sets.iter().map(|(name, _)| name.clone()).collect();
    let num_rows: Vec<usize> = num_read.chunks(2).map(|of| of[0] + of[1]).collect();
    let mut warnings = Vec::new();
    for (place, name) in names.iter().enumerate() {
        let chosen = halves[2 * place].len() + halves[2 * place + 1].len();
        warnings.extend(doubts(name, num_rows[place], chosen));
    }
    let (cosines, split) = cosines(&products, n);
    let distances: Vec<f64> = cosines.iter().map(|cosine| 1.0 - cosine).collect();
    let affinities: Vec<f64> = cosines.iter().map(|cosine| (1.0 + cosine) / 2.0).collect();
    let found = spectral::groups(&affinities, n, settings.groups);
    let groups = in_order(&found, &distances);
    let stages = stages(recipe, corpus, schedule, (by, &sets), &groups);
    let lost = left_out(&recipe.schedule);
    if stages.is_ok() && !lost.is_empty() {
        warnings.push(format!(
            "affinity: the stages that introduce the groups do not have these keys of the recipe's: {}",
            lost.join(", ")
        ));
    }
    Ok(Affinity {
        by,
        names,
        num_rows,
        cosines,
        halves: split,
        groups,
        eigenvalues: found.eigenvalues,
        merges: spectral::average_linkage(&distances, n),
        stages,
        warnings,
    })
}

/// Tasks, or manifests if there are few tasks and more manifests.
fn default_by(corpus: &Corpus, trained: &[u32]) -> By {
    let num_of = |by| sets(corpus, trained, by).len();
    let num_tasks = num_of(By::Task);
    match num_tasks < FEW_TASKS && num_of(By::Manifest) > num_tasks {
        true => By::Manifest,
        false => By::Task,
    }
}

/// The sets of these rows, by name, with their rows.
fn sets(corpus: &Corpus, trained: &[u32], by: By) -> Vec<(String, Vec<u32>)> {
    let mut found: Vec<(usize, String, Vec<u32>)> = Vec::new();
    for &row in trained {
        let number = match by {
            By::Task => corpus.task_of(row),
            By::Manifest => corpus.manifest_of(row),
        };
        match found.iter_mut().find(|(known, ..)| *known == number) {
            Some((_, _, rows)) => rows.push(row),
            None => {
                let name = match by {
                    By::Task => corpus.population().tasks[number].clone(),
                    By::Manifest => corpus.manifest_name(row),
                };
                found.push((number, name, vec![row]));
            }
        }
    }
    found.sort_by_key(|(number, ..)| *number);
    found
        .into_iter()
        .map(|(_, name, rows)| (name, rows))
        .collect()
}

/// Refuses more gradients at once than fit: `num_numbers` in `num_gradients` of them, in f32.
/// `available` is bytes, and the name of what has no more.
///
/// # Errors
/// Too little memory.
fn check_memory(
    num_numbers: usize,
    num_gradients: usize,
    available: Option<(u64, &str)>,
) -> Result<()> {
    let needed = F32 * num_numbers as f64;
    match available {
        Some((bytes, limit)) if needed > bytes as f64 => Err(Error::resource(format!(
            "--affinity holds {num_gradients} gradients of LoRA's B at once, {:.1} GB, and {limit} has {:.1} GB available",
            needed / 1e9,
            bytes as f64 / 1e9
        ))
        .hint("compare fewer sets (--affinity-by task), lower `lora.rank`, or take a machine with more memory")),
        _ => Ok(()),
    }
}

/// What to mind of a set of which `num_rows` of `chosen` rows were measured.
fn doubts(name: &str, num_rows: usize, chosen: usize) -> Vec<String> {
    let mut found = Vec::new();
    if num_rows < chosen {
        found.push(format!(
            "affinity: {} of {chosen} rows of `{name}` cannot be read and are left out",
            chosen - num_rows
        ));
    }
    if num_rows < ROWS {
        found.push(format!(
            "affinity: `{name}` has {num_rows} rows that can be measured, fewer than {ROWS}: its distances are uncertain"
        ));
    }
    found
}

/// Keys of a recipe's schedule that stages of groups do not have.
fn left_out(settings: &schedule::Settings) -> Vec<&'static str> {
    let mut found = Vec::new();
    if settings.shuffle {
        found.push("shuffle");
    }
    for stage in &settings.stages {
        for (key, is_written) in written(stage) {
            if is_written && !found.contains(&key) {
                found.push(key);
            }
        }
    }
    found
}

/// Keys of a stage but name, tasks and length, and whether the stage has them.
fn written(stage: &StageSettings) -> [(&'static str, bool); 15] {
    let none = StageSettings::default();
    [
        ("mix", stage.mix.is_some()),
        ("temperature", stage.temperature.is_some()),
        ("replay", stage.replay.is_some()),
        ("draw", stage.draw != none.draw),
        ("max_repeats", stage.max_repeats.is_some()),
        ("block", stage.block.is_some()),
        ("select", stage.select.is_some()),
        ("embeddings", stage.embeddings.is_some()),
        ("difficulty", stage.difficulty.is_some()),
        ("learning_rate", stage.learning_rate.is_some()),
        ("early_stop", stage.early_stop.is_some()),
        ("end", stage.end.is_some()),
        ("msft", stage.msft.is_some()),
        ("train", stage.train != none.train),
        ("loss", stage.loss != none.loss),
    ]
}

/// The gradient of B of all adapters, of the mean loss of some rows, and how many of the rows could
/// be read.
///
/// # Errors
/// Rows that cannot be read, or none that can.
fn gradient(
    recipe: &Recipe,
    corpus: &Corpus,
    (model, loader): (&AudioLlm, &Loader),
    rows: &[u32],
) -> Result<(Vec<f32>, usize)> {
    let read: Vec<Result<(Loaded, Counted)>> = rows
        .par_iter()
        .map(|&row| read(recipe, corpus, loader, row))
        .collect();
    let mut loaded = Vec::with_capacity(rows.len());
    let mut first = None;
    for row in read {
        match row {
            Ok(row) => loaded.push(row),
            Err(error) if recipe.on_bad_row == OnBadRow::Skip && error.kind == Kind::Input => {
                first = first.or(Some(error));
            }
            Err(error) => return Err(error),
        }
    }
    if loaded.is_empty()
        && let Some(first) = first
    {
        return Err(Error::input(format!(
            "none of {} rows can be read, and each half needs one; the first: {}",
            rows.len(),
            first.message()
        ))
        .hint("put readable files in their place, or leave these rows out of the data"));
    }
    let num_read = loaded.len();

    let counted: Vec<Counted> = loaded.iter().map(|(_, counted)| *counted).collect();
    let weights = loss_weights::weights(&counted, recipe.loss.normalise);
    let mut sequences = Vec::with_capacity(loaded.len());
    for ((example, _), weight) in loaded.into_iter().zip(weights) {
        let mut sequence = example.sequence;
        sequence.target_weight = weight;
        sequences.push(sequence);
    }
    let lengths: Vec<usize> = sequences
        .iter()
        .map(|sequence| sequence.tokens.len())
        .collect();
    let pass = Pass {
        save: recipe.memory.save,
        dropout: 0.0,
        label_smoothing: 0.0,
        noise: EmbeddingNoise::default(),
    };
    model.parameters.zero_gradients()?;
    for range in micro_batches(&lengths, recipe.memory.pack_tokens()) {
        let packed: Vec<&Sequence> = sequences[range].iter().collect();
        let batch = Batch::pack(&packed, model.config.framing())?;
        model.train(&batch, None, pass)?;
    }

    let all = to_host(&model.parameters.gradients)?;
    let is_b = |name: &str| name.ends_with(B_NAME);
    let entries = model.parameters.entries.iter();
    let gradient = entries
        .filter(|entry| is_b(&entry.name))
        .flat_map(|entry| &all[entry.range.clone()])
        .copied()
        .collect();
    Ok((gradient, num_read))
}

fn read(recipe: &Recipe, corpus: &Corpus, loader: &Loader, row: u32) -> Result<(Loaded, Counted)> {
    let example = corpus.clean_example(row)?;
    let loaded = loader
        .load(&example, Mode::Train, Key::new(0, "affinity"))
        .map_err(|e| e.at(corpus.place(row)))?;
    let counted = Counted {
        task: corpus.task_of(row),
        num_targets: loaded.sequence.num_targets(),
        class_weight: match recipe.loss.class_weights {
            ClassWeights::None => 1.0,
            ClassWeights::Balanced => corpus.class_weight(row, example.label.as_deref()),
        },
    };
    Ok((loaded, counted))
}

/// Adds the inner products of all pairs.
fn add_products(gradients: &[Vec<f32>], products: &mut [f64]) {
    let n = gradients.len();
    for i in 0..n {
        for j in i..n {
            let pairs = gradients[i].iter().zip(&gradients[j]);
            let product: f64 = pairs.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            products[i * n + j] += product;
            if i != j {
                products[j * n + i] += product;
            }
        }
    }
}

/// Cosines of sets, and of the halves of each, from the inner products of all halves. The gradient
/// of a set is the mean of those of its halves.
///
/// # Shapes
/// `products`: `[2 n, 2 n]` -> `[n, n]` and `[n]`
fn cosines(products: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let half = |i: usize, j: usize| products[i * 2 * n + j];
    let whole = |i: usize, j: usize| {
        (half(2 * i, 2 * j)
            + half(2 * i, 2 * j + 1)
            + half(2 * i + 1, 2 * j)
            + half(2 * i + 1, 2 * j + 1))
            / 4.0
    };
    let cosine = |product: f64, a: f64, b: f64| match a > 0.0 && b > 0.0 {
        true => (product / (a.sqrt() * b.sqrt())).clamp(-1.0, 1.0),
        false => 0.0,
    };
    let mut between = Vec::with_capacity(n * n);
    for i in 0..n {
        for j in 0..n {
            between.push(match i == j {
                true => 1.0,
                false => cosine(whole(i, j), whole(i, i), whole(j, j)),
            });
        }
    }
    let of_halves = (0..n).map(|i| {
        let (a, b) = (2 * i, 2 * i + 1);
        cosine(half(a, b), half(a, a), half(b, b))
    });
    (between, of_halves.collect())
}

/// Members of the groups, in the order of their introduction: the group whose members are farthest
/// from all others in total, on average, comes first.
fn in_order(groups: &Groups, distances: &[f64]) -> Vec<Vec<usize>> {
    let n = groups.assignments.len();
    let total = |i: usize| distances[i * n..(i + 1) * n].iter().sum::<f64>();
    let mut found = vec![Vec::new(); groups.count];
    for (member, &group) in groups.assignments.iter().enumerate() {
        found[group].push(member);
    }
    let mean = |members: &Vec<usize>| {
        members.iter().map(|&member| total(member)).sum::<f64>() / members.len() as f64
    };
    found.sort_by(|a, b| mean(b).total_cmp(&mean(a)).then(a[0].cmp(&b[0])));
    found
}

/// Stages of equal length that introduce the groups one after the other, as the section `schedule`
/// of a recipe; or why there are none.
fn stages(
    recipe: &Recipe,
    corpus: &Corpus,
    schedule: &Schedule,
    (by, sets): (By, &[(String, Vec<u32>)]),
    groups: &[Vec<usize>],
) -> std::result::Result<String, String> {
    let mut introduced: Vec<Vec<String>> = Vec::with_capacity(groups.len());
    for members in groups {
        let mut tasks = introduced.last().cloned().unwrap_or_default();
        for &member in members {
            for task in tasks_of(corpus, &sets[member].1) {
                let is_known = introduced.last().is_some_and(|known| known.contains(&task));
                if by == By::Manifest && is_known {
                    return Err(format!(
                        "no stages: rows of `{task}` are in several groups, and a stage names tasks"
                    ));
                }
                if !tasks.contains(&task) {
                    tasks.push(task);
                }
            }
        }
        introduced.push(tasks);
    }

    let total = schedule.num_planned_steps();
    let count = introduced.len() as u64;
    if total < count {
        return Err(format!("no stages: {total} steps for {count} groups"));
    }
    let mut settings = schedule::Settings {
        batch: recipe.schedule.batch,
        seed: recipe.schedule.seed,
        ..schedule::Settings::default()
    };
    for (number, tasks) in (1..).zip(introduced) {
        let steps = total * number / count - total * (number - 1) / count;
        settings.stages.push(StageSettings {
            name: format!("affinity-{number}"),
            tasks: TaskList::Named(tasks),
            steps: Some(steps),
            ..StageSettings::default()
        });
    }
    yaml_serde::to_string(&settings)
        .map(|text| {
            let lines = text.lines().map(|line| format!("  {line}\n"));
            format!("schedule:\n{}", lines.collect::<String>())
        })
        .map_err(|error| format!("no stages: {error}"))
}

/// Names of the tasks of rows, each once.
fn tasks_of(corpus: &Corpus, rows: &[u32]) -> Vec<String> {
    let mut tasks: Vec<usize> = rows.iter().map(|&row| corpus.task_of(row)).collect();
    tasks.sort_unstable();
    tasks.dedup();
    let names = &corpus.population().tasks;
    tasks.into_iter().map(|task| names[task].clone()).collect()
}

impl Affinity {
    /// The name of the sets in tables.
    fn kind(&self) -> &'static str {
        match self.by {
            By::Task => "task",
            By::Manifest => "manifest",
        }
    }

    /// Group of a set, from 1 in the order of introduction.
    pub(super) fn group_of(&self, member: usize) -> usize {
        let group = self.groups.iter().position(|group| group.contains(&member));
        group.map_or(0, |group| group + 1)
    }

    /// The groups in the order of their introduction, with the names of their members.
    pub(super) fn members(&self) -> Vec<(String, String)> {
        let mut found = Vec::with_capacity(self.groups.len());
        for (number, group) in (1..).zip(&self.groups) {
            let names: Vec<&str> = group.iter().map(|&member| &*self.names[member]).collect();
            found.push((format!("group {number}"), names.join(", ")));
        }
        found
    }

    /// Distances, rows, halves and groups as a table.
    pub(super) fn table(&self) -> Table {
        let n = self.names.len();
        let note = format!(
            "1 - cosine of the gradients of LoRA's B at the start of the run, means over {DRAWS} draws of A, without dropout, all rows of a task asked in one wording. `halves` is the cosine of the gradients of two halves of the rows: if it is low, more rows are needed. After GST (arXiv 2605.19101), whose code is not public."
        );
        let mut columns = vec![self.kind(), "group", "rows", "halves"];
        columns.extend(self.names.iter().map(String::as_str));
        let title = format!("affinity: distances between gradients, by {}", self.kind());
        let mut table = Table::new(title, note, &columns, 1);
        for i in 0..n {
            let mut row = vec![
                self.names[i].clone(),
                self.group_of(i).to_string(),
                self.num_rows[i].to_string(),
                format!("{:.2}", self.halves[i]),
            ];
            let distances = self.cosines[i * n..(i + 1) * n].iter();
            row.extend(distances.map(|cosine| format!("{:.2}", 1.0 - cosine)));
            table.rows.push(row);
        }
        table
    }

    /// The dendrogram in lines, a merge below its two branches.
    pub(super) fn dendrogram(&self) -> String {
        let largest = self.merges.last().map_or(0.0, |last| last.height);
        let mut text = "dendrogram: average linkage of these distances\n".to_owned();
        let root = self.names.len() + self.merges.len() - 1;
        self.branch(root, 0, largest.max(f64::MIN_POSITIVE), &mut text);
        text
    }

    fn branch(&self, number: usize, depth: usize, largest: f64, text: &mut String) {
        let indent = "  ".repeat(depth + 1);
        let Some(merge) = number.checked_sub(self.names.len()) else {
            *text += &format!("{indent}{}\n", self.names[number]);
            return;
        };
        let Merge { branches, height } = &self.merges[merge];
        let bar = (height / largest * TEXT_WIDTH as f64).round() as usize;
        *text += &format!("{indent}{height:.2} {}\n", "-".repeat(bar.max(1)));
        for &branch in branches {
            self.branch(branch, depth + 1, largest, text);
        }
    }

    /// The whole for a terminal.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n{}", self.table().text(), self.dendrogram());
        text += "\ngroups, in the order of their introduction\n";
        for (group, members) in self.members() {
            text += &format!("  {group}  {members}\n");
        }
        match &self.stages {
            Ok(stages) => text += &format!("\nstages that introduce the groups\n{stages}"),
            Err(why) => text += &format!("\n{why}\n"),
        }
        text
    }

    /// The whole as a JSON object.
    pub(super) fn json(&self) -> serde_json::Value {
        let n = self.names.len();
        let rows: Vec<Vec<f64>> = self
            .cosines
            .chunks(n)
            .map(|row| row.iter().map(|cosine| 1.0 - cosine).collect())
            .collect();
        let groups: Vec<Vec<&String>> = self
            .groups
            .iter()
            .map(|group| group.iter().map(|&member| &self.names[member]).collect())
            .collect();
        serde_json::json!({
            "by": self.kind(),
            "names": self.names,
            "rows": self.num_rows,
            "halves": self.halves,
            "distances": rows,
            "eigenvalues": self.eigenvalues,
            "merges": self.merges.iter().map(|merge| serde_json::json!({
                "branches": merge.branches,
                "height": merge.height,
            })).collect::<Vec<_>>(),
            "groups": groups,
            "stages": self.stages.as_ref().ok(),
        })
    }

    /// Stages that introduce the groups, as the section `schedule` of a recipe.
    ///
    /// # Errors
    /// Groups that stages cannot introduce.
    pub fn stages_text(&self) -> Result<&str> {
        match &self.stages {
            Ok(stages) => Ok(stages),
            Err(why) => Err(Error::input(why.clone())
                .at("--affinity-stages")
                .hint("compare tasks: --affinity-by task")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sets of two halves in a plane: (1, 0) and (1, 1), (0, 2) and (0, 1). The means are
    /// (1, 0.5) and (0, 1.5): cosine 0.75 / (sqrt(1.25) 1.5) = 1 / sqrt(5). Halves: 1 / sqrt(2)
    /// and 1.
    #[test]
    fn cosines_by_hand() {
        let gradients = [[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.0, 1.0f32]].map(Vec::from);
        let mut products = vec![0.0; 16];
        add_products(&gradients, &mut products);
        let (between, halves) = cosines(&products, 2);
        let expected = [1.0, 5f64.sqrt().recip(), 5f64.sqrt().recip(), 1.0];
        assert!(
            between
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-12)
        );
        assert!((halves[0] - 0.5f64.sqrt()).abs() < 1e-12 && (halves[1] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn gradients_that_do_not_fit_are_refused() {
        // A thousand numbers in f32 are 4000 bytes.
        assert!(check_memory(1000, 4, Some((4000, "the machine"))).is_ok());
        assert!(check_memory(1000, 4, None).is_ok());
        let error = check_memory(1000, 4, Some((3999, "the machine"))).unwrap_err();
        assert_eq!(error.kind, Kind::Resource);
        assert!(error.message().contains("holds 4 gradients"), "{error}");
    }

    #[test]
    fn keys_that_are_lost_are_named_once() {
        let stage = |learning_rate| StageSettings {
            learning_rate,
            mix: Some(schedule::Mix::Uniform),
            ..StageSettings::default()
        };
        let settings = schedule::Settings {
            stages: vec![stage(None), stage(Some(1e-4)), StageSettings::default()],
            ..schedule::Settings::default()
        };
        assert_eq!(left_out(&settings), ["mix", "learning_rate"]);
        assert!(left_out(&schedule::Settings::default()).is_empty());
    }

    #[test]
    fn the_farthest_group_comes_first() {
        let groups = Groups {
            assignments: vec![0, 0, 1],
            count: 2,
            eigenvalues: Vec::new(),
        };
        // Totals: 0.1 + 0.8, 0.1 + 0.9, 0.8 + 0.9.
        let distances = [0.0, 0.1, 0.8, 0.1, 0.0, 0.9, 0.8, 0.9, 0.0];
        assert_eq!(in_order(&groups, &distances), [vec![2], vec![0, 1]]);
    }
}

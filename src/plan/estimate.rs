//! How much memory and time a run will take, about, each with its reason in a line.

use std::time::Duration;
use std::time::Instant;

use crate::audio::SAMPLE_RATE;
use crate::batch::micro_batches;
use crate::error::Result;
use crate::models::config::Config;
use crate::models::cost::F32;
use crate::models::cost::Load;
use crate::models::cost::Model;
use crate::models::memory::HostNeed;
use crate::models::sizes::Sizes;
use crate::nn::lora::Plan;
use crate::nn::precision::Precision;
use crate::ops::device::Memory;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product_new;
use crate::parts::Parts;
use crate::parts::Training as PartTraining;
use crate::plan::draws::StageDraws;
use crate::plan::facts::Fact;
use crate::plan::facts::Facts;
use crate::plan::uds;
use crate::recipe::Recipe;
use crate::schedule::Draw;
use crate::schedule::Schedule;
use crate::text_table::count;
use crate::text_table::duration;
use crate::train::GradientMethod;
use crate::train::audio_gap::AudioGap;
use crate::train::corpus::Corpus;

/// What a training reaches of the speed of one large product, whole steps with norms, loading and
/// the optimiser. Measured with maqam-tiny, full fine-tuning of all parts, 16 examples a step, on
/// two cores of an AMD EPYC with AVX-512: 45 GFLOP for each second of a core over 50 steps where
/// the product alone reached 82. A model this small is the hard case; a large one spends more of
/// its time in products.
const EFFICIENCY: f64 = 0.55;

/// Rows and columns of the matrices that the machine's speed is measured with.
const SIDE: usize = 768;

/// How long that takes.
const CALIBRATION: Duration = Duration::from_millis(300);

/// Log-mel numbers for each token of audio: four frames of 128.
const FEATURES: f64 = 512.0;

/// Steps whose clips are in memory: the one that is computed and the one that is read ahead. Of a
/// stage with `draw: uds`, the candidates of one step.
const STEPS_IN_MEMORY: f64 = 2.0;

/// What an estimate needs to know beside what is drawn.
pub struct Training<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The model's dimensions.
    pub config: &'a Config,
    /// Its adapters.
    pub plan: &'a Plan,
    /// How each stage trains its parts.
    pub parts: &'a [Parts],
    /// Rows that the audio gap is measured on, if it is.
    pub audio_gap: Option<&'a AudioGap>,
    /// Bytes of the embeddings that stages compare.
    pub embeddings: f64,
    /// Memory of the GPU that it should fit, in bytes.
    pub gpu_memory: Option<f64>,
}

/// The loads of a stage's looked-at steps.
struct StageLoads {
    /// Over all its steps, scaled from those.
    total: Load,
    /// Operations of all its steps, look-aheads included.
    operations: f64,
    /// Bytes of the largest micro-batch.
    activations: f64,
    /// Audio tokens of the largest step.
    audio_tokens: f64,
}

/// The lines of an estimate; empty where tokens are not known.
pub fn lines(
    training: &Training<'_>,
    corpus: &Corpus,
    stages: &[StageDraws],
    facts: &Facts,
) -> Vec<(&'static str, String)> {
    let sizes = Sizes::of(training.config, training.plan);
    let loads: Vec<StageLoads> = stages
        .iter()
        .enumerate()
        .filter_map(|(i, stage)| loads(training, &sizes, stage, facts, i))
        .collect();
    if loads.len() < stages.len() {
        return Vec::new();
    }
    let speed = speed();
    let mut lines = vec![
        ("memory", memory(training, &sizes, &loads)),
        ("time", time(training, &loads, speed)),
    ];
    lines.extend(surgery(training, &sizes, stages).map(|line| ("surgery", line)));
    lines.extend(training.audio_gap.map(|gap| {
        let seconds = audio_gap(training, &sizes, gap, stages, &loads) / (speed * EFFICIENCY);
        let line = format!(
            "about {} more for the audio gap: a forward of {} sequences before the first step, after every {} steps and after the last",
            duration(seconds),
            gap.num_sequences(),
            gap.every
        );
        ("gap", line)
    }));
    lines.extend(encoder(training.recipe, training.config, speed).map(|line| ("encoder", line)));
    lines.extend(training.gpu_memory.map(|gpu_memory| {
        (
            "GPU",
            on_gpu(training, &sizes, (corpus, stages, facts), gpu_memory),
        )
    }));
    lines
}

/// The lines of an estimate where only the shape of the model is known: what does not depend on
/// tokens.
///
/// # Errors
/// Adapters that fit nothing.
pub fn lines_of_shape(
    recipe: &Recipe,
    config: &Config,
    schedule: &Schedule,
    gpu_memory: Option<f64>,
) -> Result<Vec<(&'static str, String)>> {
    let (parts, plan) = recipe.adapters(config, None, schedule)?;
    let sizes = Sizes::of(config, &plan);
    let need = HostNeed::training(&sizes, recipe.model.precision, 0.0);
    let mut lines = vec![(
        "memory",
        format!(
            "about {} on the CPU, in f32: frozen weights {} + {} trained parameters in 4 buffers {}; activations, clips, the program itself \
             and rows come on top",
            bytes(need.total()),
            bytes(need.weights),
            count(sizes.num_trained() as f64),
            bytes(need.trained)
        ),
    )];
    lines.extend(encoder(recipe, config, speed()).map(|line| ("encoder", line)));
    if let Some(gpu_memory) = gpu_memory {
        let precision = gpu_precision(recipe);
        let fit = recipe.fit(config, &plan, &parts, precision, empty_gpu(gpu_memory));
        let said = match fit {
            Ok(fit) => {
                let mut said = vec![
                    format!("in {precision}: {}", fit.line()),
                    format!(
                        "the longest example that fits has {} tokens",
                        count(fit.longest as f64)
                    ),
                ];
                said.extend(fit.note());
                said.join("; ")
            }
            Err(refusal) => refusal.to_string().replace('\n', "; "),
        };
        lines.push(("GPU", said));
    }
    Ok(lines)
}

/// Seconds of the clip that two encoders are compared on.
const COMPARED_S: f64 = 10.0;

/// The speech encoder beside the tower that it replaces, on a machine of `speed` operations per
/// second; `None` for a model with its own tower.
fn encoder(recipe: &Recipe, config: &Config, speed: f64) -> Option<String> {
    let speech = config.speech.as_deref()?;
    let tower = config.with_tower();
    let own = EncoderCost::of(recipe, config);
    let before = EncoderCost::of(recipe, &tower);
    let factor = |cost: &EncoderCost| cost.operations / (speed * EFFICIENCY) / COMPARED_S;
    Some(format!(
        "{} in place of the tower of {}: {} parameters in place of {}; {:.1} audio tokens per second in place of {:.1}; forward of a clip of \
         {COMPARED_S} s about {} operations in place of {}, a real-time factor of {:.4} in place of {:.4} on this machine, and {} of \
         activations in place of {}",
        speech.description(),
        tower.names.family,
        count(own.parameters),
        count(before.parameters),
        own.tokens / COMPARED_S,
        before.tokens / COMPARED_S,
        scientific(own.operations),
        scientific(before.operations),
        factor(&own),
        factor(&before),
        bytes(own.activations),
        bytes(before.activations)
    ))
}

/// Cost of a frozen encoder for a clip of [`COMPARED_S`].
struct EncoderCost {
    parameters: f64,
    tokens: f64,
    operations: f64,
    activations: f64,
}

impl EncoderCost {
    fn of(recipe: &Recipe, config: &Config) -> Self {
        let plan = Plan::default();
        let sizes = Sizes::of(config, &plan);
        let model = Model {
            config,
            sizes: &sizes,
            parts: Parts {
                audio_encoder: PartTraining::Frozen,
                projector: PartTraining::Frozen,
                decoder: PartTraining::Frozen,
            },
            save: recipe.memory.save,
        };
        let samples = (COMPARED_S * f64::from(SAMPLE_RATE)) as usize;
        let tokens = config.audio_tokens(samples);
        let mut load = Load::default();
        load.add(tokens, tokens, 0);
        Self {
            parameters: sizes.weights.audio_encoder as f64,
            tokens: tokens as f64,
            operations: model.encoder_forward(&load),
            activations: F32 * model.encoder_activations(&load),
        }
    }
}

/// What the recipe computes in on a GPU.
fn gpu_precision(recipe: &Recipe) -> Precision {
    match recipe.model.precision {
        Precision::Fp8 => Precision::Fp8,
        _ => Precision::Bf16,
    }
}

/// Memory that a GPU's driver takes for itself, in bytes.
const CONTEXT: f64 = 0.6e9;

/// A GPU of `total` bytes that does nothing else.
fn empty_gpu(total: f64) -> Memory {
    Memory {
        free: (total - CONTEXT).max(0.0) as u64,
        total: total as u64,
    }
}

/// How the training fits a GPU of `gpu_memory` bytes, and which drawn rows do not fit.
fn on_gpu(
    training: &Training<'_>,
    sizes: &Sizes,
    (corpus, stages, facts): (&Corpus, &[StageDraws], &Facts),
    gpu_memory: f64,
) -> String {
    let Training {
        recipe,
        config,
        plan,
        parts,
        ..
    } = training;
    let precision = gpu_precision(recipe);
    let fit = match recipe.fit(config, plan, parts, precision, empty_gpu(gpu_memory)) {
        Ok(fit) => fit,
        Err(refusal) => return refusal.to_string().replace('\n', "; "),
    };
    let mut largest = 0f64;
    let mut tokens_of_largest = 0;
    let mut longest = (0, 0);
    for (index, stage) in stages.iter().enumerate() {
        let model = Model {
            config,
            sizes,
            parts: parts[index],
            save: recipe.memory.save,
        };
        for &step in &facts.steps[index] {
            let draws = stage.steps[step]
                .iter()
                .filter_map(|pick| Some((pick.row, facts.of(*pick)?)));
            let known: Vec<(u32, &Fact, (usize, usize))> = draws
                .filter_map(|(row, fact)| Some((row, fact, fact.tokens?)))
                .collect();
            let lengths: Vec<usize> = known.iter().map(|(_, _, (all, _))| *all).collect();
            longest = known
                .iter()
                .map(|(row, _, (all, _))| (*all, *row))
                .fold(longest, Ord::max);
            for range in micro_batches(&lengths, fit.pack_tokens) {
                let mut load = Load::default();
                known[range].iter().for_each(|(_, fact, (all, targets))| {
                    load.add(*all, fact.audio_tokens, *targets)
                });
                let bytes = model.on_gpu(&load);
                if bytes > largest {
                    (largest, tokens_of_largest) = (bytes, load.tokens as usize);
                }
            }
        }
    }
    let mut said = vec![
        format!("in {precision}: {}", fit.line()),
        format!(
            "the largest micro-batch drawn has {} tokens and takes {}",
            count(tokens_of_largest as f64),
            bytes(largest)
        ),
    ];
    said.extend(fit.note());
    if longest.0 > fit.longest {
        let row = corpus.place(longest.1);
        said.push(format!(
            "{row} has {} tokens, which will be refused: the GPU has memory for {}; {}",
            count(longest.0 as f64),
            fit.longest,
            fit.hint()
        ));
    }
    said.join("; ")
}

fn loads(
    training: &Training<'_>,
    sizes: &Sizes,
    stage: &StageDraws,
    facts: &Facts,
    index: usize,
) -> Option<StageLoads> {
    let Training {
        recipe,
        config,
        parts,
        ..
    } = training;
    let model = Model {
        config,
        sizes,
        parts: parts[index],
        save: recipe.memory.save,
    };
    let mut sum = Load::default();
    let mut activations = 0f64;
    let mut audio_tokens = 0f64;
    for &step in &facts.steps[index] {
        let draws: Vec<&Fact> = stage.steps[step]
            .iter()
            .filter_map(|pick| facts.of(*pick))
            .collect();
        let tokens = draws
            .iter()
            .map(|fact| fact.tokens)
            .collect::<Option<Vec<_>>>()?;
        let lengths: Vec<usize> = tokens.iter().map(|(all, _)| *all).collect();
        for range in micro_batches(&lengths, recipe.memory.pack_tokens()) {
            let mut load = Load::default();
            range.for_each(|i| load.add(tokens[i].0, draws[i].audio_tokens, tokens[i].1));
            activations = activations.max(model.activations(&load));
        }
        (0..draws.len()).for_each(|i| sum.add(tokens[i].0, draws[i].audio_tokens, tokens[i].1));
        audio_tokens = audio_tokens.max(draws.iter().map(|fact| fact.audio_tokens as f64).sum());
    }
    let scale = stage.steps.len() as f64 / facts.steps[index].len().max(1) as f64;
    let total = Load {
        tokens: sum.tokens * scale,
        squares: sum.squares * scale,
        audio_tokens: sum.audio_tokens * scale,
        targets: sum.targets * scale,
    };
    let of_stage = &stage.stage;
    let ahead = of_stage.online.map_or(0.0, |rule| {
        let num_tasks = of_stage.tasks.len();
        rule.lookahead_steps(of_stage.steps, num_tasks, recipe.schedule.batch)
    });
    // Candidates are in memory together, before the step that is made of them is read.
    let steps_of_clips = of_stage
        .uds
        .map_or(0.0, |uds| uds.candidates as f64)
        .max(STEPS_IN_MEMORY);
    Some(StageLoads {
        operations: model.operations(&total)
            * (1.0 + ahead / of_stage.steps as f64 + uds::cost(of_stage)),
        total,
        activations,
        audio_tokens: audio_tokens * steps_of_clips / STEPS_IN_MEMORY,
    })
}

fn memory(training: &Training<'_>, sizes: &Sizes, loads: &[StageLoads]) -> String {
    let largest = |of: fn(&StageLoads) -> f64| loads.iter().map(of).fold(0.0, f64::max);
    let precision = training.recipe.model.precision;
    let said_of = if precision == Precision::Fp8 {
        ", the decoder's linear layers twice,"
    } else {
        ""
    };
    let HostNeed {
        weights, trained, ..
    } = HostNeed::training(sizes, precision, 0.0);
    let activations = largest(|load| load.activations);
    let per_token = match &training.config.speech {
        Some(speech) => (speech.stack * speech.encoder.stride()) as f64,
        None => FEATURES,
    };
    let mut stages = training.recipe.schedule.stages.iter();
    let clips = match stages.any(|stage| stage.draw == Draw::Uds) {
        true => "two steps, or of the candidates of one,",
        false => "two steps",
    };
    let features = STEPS_IN_MEMORY * per_token * F32 * largest(|load| load.audio_tokens);
    let parts = [
        (
            weights,
            format!("frozen weights{said_of} {}", bytes(weights)),
        ),
        (
            trained,
            format!(
                "{} trained parameters in 4 buffers {}",
                count(sizes.num_trained() as f64),
                bytes(trained)
            ),
        ),
        (
            activations,
            format!(
                "activations of the largest micro-batch, `memory.save: {}`, {}",
                training.recipe.memory.save,
                bytes(activations)
            ),
        ),
        (features, format!("clips of {clips} {}", bytes(features))),
        (
            training.embeddings,
            format!("embeddings {}", bytes(training.embeddings)),
        ),
    ];
    let total: f64 = parts.iter().map(|(size, _)| size).sum();
    let said: Vec<String> = parts
        .into_iter()
        .filter(|(size, _)| *size > 0.0)
        .map(|(_, text)| text)
        .collect();
    format!(
        "about {} on the CPU, in f32: {}; the program itself and rows come on top",
        bytes(total),
        said.join(" + ")
    )
}

fn time(training: &Training<'_>, loads: &[StageLoads], speed: f64) -> String {
    let every = training.recipe.probe.every;
    let probes = if every > 0 {
        1.0 + 1.0 / every as f64
    } else {
        1.0
    };
    let passes = 1.0 + extra_passes(training.recipe) / 3.0;
    let operations: f64 = loads.iter().map(|load| load.operations).sum::<f64>() * probes * passes;
    let tokens: f64 = loads.iter().map(|load| load.total.tokens).sum();
    format!(
        "about {} on this machine, evaluations and checkpoints apart: {} operations for {} tokens, at {:.0} GFLOP/s measured now for one \
         product times {EFFICIENCY}, what whole steps of a small model reach of that",
        duration(operations / (speed * EFFICIENCY)),
        scientific(operations),
        count(tokens),
        speed / 1e9
    )
}

/// Forward passes of a step's rows that FAMO makes beside the step.
fn extra_passes(recipe: &Recipe) -> f64 {
    match &recipe.gradients {
        Some(settings) if settings.method == GradientMethod::Famo => {
            // Losses with dropout or noise are computed again without.
            let is_clean = recipe.lora.dropout == 0.0 && recipe.neftune.is_none();
            if is_clean { 1.0 } else { 2.0 }
        }
        _ => 0.0,
    }
}

/// Cost of gradients of tasks, where the recipe asks for them.
fn surgery(training: &Training<'_>, sizes: &Sizes, stages: &[StageDraws]) -> Option<String> {
    let settings = training.recipe.gradients.as_ref()?;
    let num_tasks = |stage: &StageDraws| stage.stage.tasks.len() + stage.stage.replayed.len();
    let most = stages.iter().map(num_tasks).max().unwrap_or(0);
    let copies = settings.num_copies(most);
    let passes = match extra_passes(training.recipe) {
        0.0 => "no further passes".to_owned(),
        1.0 => "one more forward pass of every step, about a third of it".to_owned(),
        _ => "two more forward passes of every step, because of dropout or noise: about two thirds of it"
            .to_owned(),
    };
    Some(format!(
        "`gradients: {}`: one gradient for each task of a step, of at most {most} tasks in micro-batches of their own; {passes}; {copies} \
         copies of the gradient in memory, {}",
        settings.method.name(),
        bytes(copies as f64 * F32 * sizes.num_trained() as f64)
    ))
}

/// Operations of all measurements of the audio gap. A sequence of its sample stands for the mean
/// drawn example.
fn audio_gap(
    training: &Training<'_>,
    sizes: &Sizes,
    gap: &AudioGap,
    stages: &[StageDraws],
    loads: &[StageLoads],
) -> f64 {
    let steps: usize = stages.iter().map(|stage| stage.steps.len()).sum();
    let examples: usize = stages
        .iter()
        .flat_map(|stage| &stage.steps)
        .map(Vec::len)
        .sum();
    let mut total = Load::default();
    for StageLoads { total: load, .. } in loads {
        total.tokens += load.tokens;
        total.squares += load.squares;
        total.audio_tokens += load.audio_tokens;
        total.targets += load.targets;
    }
    let model = Model {
        config: training.config,
        sizes,
        parts: training.parts[0],
        save: training.recipe.memory.save,
    };
    let per_example = model.forward(&total) / examples.max(1) as f64;
    let measurements = 1.0 + (steps as f64 / gap.every as f64).ceil();
    measurements * gap.num_sequences() as f64 * per_example
}

fn scientific(number: f64) -> String {
    format!("{number:.1e}").replace('e', " x 10^")
}

/// Operations a second that this machine reaches in one large product, as it is now.
fn speed() -> f64 {
    let values: Vec<f32> = (0..SIDE * SIDE).map(|i| (i % 7) as f32).collect();
    let matrix = Matrix::new(&values, SIDE, SIDE);
    let started = Instant::now();
    let mut products = 0.0;
    let mut sum = 0.0;
    while started.elapsed() < CALIBRATION {
        sum += product_new(matrix, matrix.t(), 1.0, Threads::All)[0];
        products += 1.0;
    }
    // The sum is looked at so that no product is left out.
    if sum.is_nan() {
        1.0
    } else {
        products * 2.0 * (SIDE as f64).powi(3) / started.elapsed().as_secs_f64()
    }
}

/// Bytes in the unit that reads best.
fn bytes(number: f64) -> String {
    match number {
        n if n < 1e6 => format!("{:.0} kB", n / 1e3),
        n if n < 1e9 => format!("{:.0} MB", n / 1e6),
        n => format!("{:.1} GB", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([1e3, 2.5e6, 33.4e9].map(bytes), ["1 kB", "2 MB", "33.4 GB"]);
        assert_eq!(scientific(3.14e15), "3.1 x 10^15");
        let found = speed();
        assert!(found > 1e8 && found < 1e14, "{found}");
    }
}

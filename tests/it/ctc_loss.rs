//! `loss: {ctc: ...}`: the first loss is that of uniform outputs, counted by hand, gradients are
//! those of finite differences, and a stopped run resumes byte for byte.

use crate::command;

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use command::Place;
use command::asr_rows;
use command::assert_close;
use command::emotion_rows;
use command::fixture;
use command::fixture_text;
use maqam::audio::LogMelExtractor;
use maqam::audio::num_audio_tokens;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::models::Transcript;
use maqam::models::config::Config;
use maqam::nn::lora::Plan;
use maqam::parts::Part;
use maqam::seed::Key;
use serde_json::Value;

fn recipe(rest: &str) -> String {
    format!(
        "\
name: small
model: {{path: {}}}
train: {{audio_encoder: frozen, projector: full, decoder: lora}}
lora: {{rank: 4, alpha: 8, targets: all-linear}}
data:
  - {{manifest: asr.jsonl, task: asr}}
  - {{manifest: emotion.jsonl, task: emotion}}
schedule:
  batch: 12
  stages:
    - {{name: listen, tasks: [asr], steps: 3, loss: {{ctc: 0.3}}}}
    - {{name: discern, tasks: all, mix: uniform, steps: 3}}
    - {{name: again, tasks: all, mix: uniform, steps: 2, loss: {{ctc: 0.1}}}}
optimiser: {{learning_rate: 2e-3}}
checkpoint: {{every: 2, keep: 9}}
seed: 7
{rest}",
        fixture_text("qwen_omni")
    )
}

fn place() -> Place {
    let place = Place::new();
    place.write_rows("asr.jsonl", &asr_rows());
    place.write_rows("emotion.jsonl", &emotion_rows());
    place.write("recipe.yaml", recipe(""));
    place
}

fn steps(place: &Place, run: &str) -> Vec<Value> {
    let lines = place.lines(&format!("runs/{run}/log.jsonl")).into_iter();
    lines.filter(|line| line["kind"] == "train").collect()
}

/// Natural logarithm of `n` over `k`; none where there is no way to choose.
fn ln_choose(n: i64, k: i64) -> Option<f64> {
    (n >= k).then(|| {
        (0..k)
            .map(|i| ((n - i) as f64 / (i + 1) as f64).ln())
            .sum::<f64>()
    })
}

/// With outputs that are uniform over U units, each of the C(T + L - r, 2 L) alignments of L
/// characters, r of them equal to the one before, with T frames has the probability U^-T.
#[test]
fn first_loss_is_that_of_uniform_outputs() {
    let place = place();
    place.run(&["train", "recipe.yaml"]).succeeds();
    let rows = asr_rows();
    let texts: Vec<&str> = rows
        .iter()
        .map(|row| row["text"].as_str().unwrap())
        .collect();
    let characters: BTreeSet<char> = texts.iter().flat_map(|text| text.chars()).collect();
    let units = characters.len() as f64 + 1.0;
    let config = Config::load(&fixture("qwen_omni")).unwrap();
    let extractor = LogMelExtractor::new(config.mel_form());
    let mut nats = 0.0;
    let mut learnt = 0;
    let mut too_short = 0;
    for (row, text) in rows.iter().zip(&texts) {
        let samples = (row["end_s"].as_f64().unwrap() * 16_000.0).round() as usize;
        let mel = extractor.extract(&vec![0.0; samples]);
        let tokens = num_audio_tokens(mel.frames) as i64;
        let spelled: Vec<char> = text.chars().collect();
        let len = spelled.len() as i64;
        let repeats = spelled.windows(2).filter(|pair| pair[0] == pair[1]).count() as i64;
        match ln_choose(tokens + len - repeats, 2 * len) {
            Some(alignments) => {
                nats += tokens as f64 * units.ln() - alignments;
                learnt += len;
            }
            None => too_short += 1,
        }
    }
    let found = &steps(&place, "small")[0]["ctc"];
    assert!(too_short > 0, "the rows have one that is too short");
    assert_eq!(
        [&found["clips"], &found["too_short"], &found["characters"]].map(|n| n.as_i64().unwrap()),
        [12, too_short, learnt]
    );
    let expected = nats / learnt as f64;
    let loss = found["loss"].as_f64().unwrap();
    assert!(
        (loss - expected).abs() < 1e-5 * expected,
        "{loss} {expected}"
    );
}

#[test]
fn head_is_trained_where_its_loss_is() {
    let place = place();
    place.run(&["train", "recipe.yaml"]).succeeds();
    let log = steps(&place, "small");
    let has_ctc: Vec<bool> = log.iter().map(|line| line.get("ctc").is_some()).collect();
    assert_eq!(has_ctc, [true, true, true, false, false, false, true, true]);
    let loss = |step: usize| log[step - 1]["ctc"]["loss"].as_f64().unwrap();
    assert!(loss(3) < loss(1), "{} {}", loss(1), loss(3));
    // Of mixed batches only rows with a transcript count.
    assert_eq!(log[7]["ctc"]["clips"], log[7]["tasks"]["asr"]["examples"]);

    let head = |step: u64| {
        place.tensors(&format!(
            "runs/small/checkpoints/step-{step:06}/ctc_head.safetensors"
        ))
    };
    let values = |step: u64, name: &str| {
        head(step)[name]
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    for name in ["ctc.weight", "ctc.bias"] {
        assert_eq!(values(4, name), values(6, name), "{name} rests in stage 2");
        assert_ne!(values(2, name), values(4, name), "{name} learns in stage 1");
        assert_ne!(values(6, name), values(8, name), "{name} learns in stage 3");
    }
    let rows = asr_rows();
    let texts = rows
        .iter()
        .flat_map(|row| row["text"].as_str().unwrap().chars());
    let expected: BTreeSet<u32> = texts.map(u32::from).collect();
    let characters = head(8)["characters"].to_vec1::<u32>().unwrap();
    assert_eq!(characters, expected.into_iter().collect::<Vec<_>>());

    // No PEFT folder and no export has the head.
    let checkpoint = "runs/small/checkpoints/step-000008";
    for file in ["adapter_model.safetensors", "trained.safetensors"] {
        let names = place.tensors(&format!("{checkpoint}/{file}"));
        assert!(!names.keys().any(|name| name.contains("ctc")), "{file}");
    }
    let model = fixture_text("qwen_omni");
    let export = [
        "export",
        "--model",
        &model,
        "--adapter",
        checkpoint,
        "--out",
        "merged",
    ];
    place.run(&export).succeeds();
    let exported = std::fs::read_dir(place.path("merged")).unwrap();
    for file in exported {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("ctc"), "{name}");
    }
}

#[test]
fn a_run_with_ctc_resumes_byte_for_byte() {
    let whole = place();
    whole.run(&["train", "recipe.yaml"]).succeeds();
    for from in [2, 4, 6] {
        // The outputs of the encoder are kept, gone, or half of them gone.
        for nth in [0, 1, 2] {
            let resumed = place();
            resumed.take_runs(&whole, "small", from);
            resumed.forget_encoded(nth);
            resumed
                .run(&["train", "recipe.yaml", "--resume"])
                .succeeds();
            let when = format!("from {from} without every file {nth} of the cache");
            let log = "runs/small/log.jsonl";
            assert_eq!(resumed.text(log), whole.text(log), "{when}");
            for step in (from..=8).step_by(2) {
                let checkpoint = format!("runs/small/checkpoints/step-{step:06}");
                resumed.assert_same_folder(&whole, &checkpoint, &when);
            }
        }
    }
    // A checkpoint without its head is not whole.
    std::fs::remove_dir_all(whole.path("runs/small/checkpoints/step-000008")).unwrap();
    let head = "runs/small/checkpoints/step-000006/ctc_head.safetensors";
    std::fs::remove_file(whole.path(head)).unwrap();
    whole.run(&["train", "recipe.yaml", "--resume"]).fails(
        2,
        &["ctc_head.safetensors", "remove the checkpoint's folder"],
    );
}

/// Rows with and without a transcript, each in a micro-batch of its own, and all in one. The second
/// step has a CTC gradient of the projector.
#[test]
fn packing_changes_no_ctc_loss() {
    let place = place();
    let stages =
        "schedule.stages=[{name: only, tasks: all, mix: uniform, steps: 2, loss: {ctc: 0.3}}]";
    for (name, pack_tokens) in [("together", 8192), ("apart", 1)] {
        let name = format!("name={name}");
        let memory = format!("memory.pack_tokens={pack_tokens}");
        let sets = ["--set", &name, "--set", &memory, "--set", stages];
        let train = ["train", "recipe.yaml"];
        place.run(&[&train[..], &sets[..]].concat()).succeeds();
    }
    let expected = steps(&place, "together");
    for (found, expected) in steps(&place, "apart").iter().zip(&expected) {
        for key in ["loss", "grad_norm"] {
            let number = |line: &Value| line[key].as_f64().unwrap();
            assert_close(number(found), number(expected), 1e-3, key);
        }
        let ctc = |line: &Value| line["ctc"]["loss"].as_f64().unwrap();
        assert_close(ctc(found), ctc(expected), 1e-3, "ctc");
        for key in ["clips", "too_short", "characters"] {
            assert_eq!(found["ctc"][key], expected["ctc"][key], "{key}");
        }
    }
    for file in ["optimiser", "trained", "ctc_head"] {
        let of_run = |run: &str| {
            let folder = format!("runs/{run}/checkpoints/step-000002");
            place.tensors(&format!("{folder}/{file}.safetensors"))
        };
        let expected = of_run("together");
        for (name, found) in of_run("apart") {
            if found.dtype() == DType::F32 {
                let distance = relative_distance(&found, &expected[&name]);
                assert!(distance < 1e-2, "{file}: {name}: {distance}");
            }
        }
    }
}

/// Length of the difference of two tensors over that of the second.
fn relative_distance(found: &Tensor, expected: &Tensor) -> f32 {
    let expected = flat(expected);
    let found = flat(found);
    let pairs = found.iter().zip(&expected);
    let difference: f32 = pairs.map(|(a, b)| (a - b).powi(2)).sum();
    let whole: f32 = expected.iter().map(|b| b.powi(2)).sum();
    (difference / whole).sqrt()
}

#[test]
fn a_factor_of_zero_changes_nothing() {
    let place = place();
    for (name, loss) in [("without", ""), ("zero", ", loss: {ctc: 0}")] {
        let name = format!("name={name}");
        let stages = format!("schedule.stages=[{{name: listen, tasks: [asr], steps: 3{loss}}}]");
        let arguments = ["train", "recipe.yaml", "--set", &name, "--set", &stages];
        place.run(&arguments).succeeds();
    }
    for file in [
        "log.jsonl",
        "checkpoints/step-000003/optimiser.safetensors",
        "checkpoints/step-000003/trained.safetensors",
    ] {
        let of_run = |run: &str| place.bytes(&format!("runs/{run}/{file}"));
        assert!(of_run("without") == of_run("zero"), "{file}");
    }
    assert!(!place.text("runs/without/recipe.yaml").contains("ctc"));
    let head = "runs/zero/checkpoints/step-000003/ctc_head.safetensors";
    assert!(!place.path(head).exists());
}

#[test]
fn bad_values_of_ctc_are_refused() {
    let place = place();
    let only_labels = "data=[{manifest: emotion.jsonl, task: emotion}]";
    let one_stage = "schedule.stages=[{name: only, steps: 2, loss: {ctc: 0.3}}]";
    for (sets, words) in [
        (
            vec!["loss.ctc=-0.1"],
            vec!["`loss.ctc` is -0.1", "0 (no CTC loss) or more"],
        ),
        (vec!["loss.ctc=.nan"], vec!["`loss.ctc` is NaN"]),
        (
            vec!["schedule.stages.0.loss.ctc=-1"],
            vec!["`loss.ctc` is -1"],
        ),
        (vec!["loss.ctc=much"], vec!["ctc", "much"]),
        (
            vec!["schedule.stages.0.train={projector: frozen}"],
            vec![
                "stage `listen` freezes the projector",
                "set `projector` to `full`",
            ],
        ),
        (
            vec!["neftune={alpha: 5, audio: true}"],
            vec!["`neftune.audio` and `loss.ctc`", "leave `audio` out"],
        ),
        (
            vec!["gradients={method: pcgrad}"],
            vec!["`gradients` and `loss.ctc`", "remove one of them"],
        ),
        (
            vec![only_labels, one_stage],
            vec!["no row has one", "rows of a task such as `asr`"],
        ),
    ] {
        for command in ["train", "plan"] {
            let mut arguments = vec![command, "recipe.yaml"];
            sets.iter()
                .for_each(|set| arguments.extend(["--set", *set]));
            place.run(&arguments).fails(2, &words);
        }
    }
}

const SPELLED: [&[u32]; 2] = [&[1, 2, 2], &[3, 1]];

/// Two clips, each with an answer of two tokens.
fn batch(config: &Config) -> Batch {
    let sequence = |clip: usize, samples: usize| {
        let wave: Vec<f32> = (0..samples)
            .map(|i| ((i * (clip + 2)) as f32 * 0.05).sin() * 0.3)
            .collect();
        let mel = LogMelExtractor::new(config.mel_form()).extract(&wave);
        let audio = num_audio_tokens(mel.frames);
        let mut tokens = vec![5, 6];
        tokens.extend(vec![config.audio_token; audio]);
        tokens.extend([7, 8, 9]);
        Sequence {
            targets: vec![tokens.len() - 2..tokens.len()],
            audio: vec![2..2 + audio],
            features: vec![Arc::new(mel)],
            key: Key::new(1, "test"),
            target_weight: 0.25,
            tokens,
        }
    };
    let sequences = [sequence(0, 6400), sequence(1, 8000)];
    Batch::pack(&sequences.each_ref(), config.framing()).unwrap()
}

/// The gradient of the whole loss, through the head and the projector, in f32. Parameters of the
/// head are not zero.
#[test]
fn gradient_of_the_whole_loss_equals_differences() {
    let dir = fixture("qwen_omni");
    let config = Config::load(&dir).unwrap();
    let weights = config.weights(&dir).unwrap();
    let plan = Plan {
        full: vec![Part::Projector],
        ctc: vec!['a', 'b', 'c'],
        ..Plan::default()
    };
    let model = AudioLlm::new(config, &weights, plan, true, &Device::Cpu).unwrap();
    let parameters = &model.parameters;
    for entry in parameters
        .entries
        .iter()
        .filter(|e| e.name.starts_with("ctc."))
    {
        let values: Vec<f32> = (0..entry.range.len())
            .map(|i| (i as f32 * 0.7).sin() * 0.5)
            .collect();
        parameters.set(entry, &values).unwrap();
    }
    let batch = batch(&model.config);
    let transcripts = [0, 1].map(|clip| Transcript {
        clip,
        units: SPELLED[clip],
        weight: 0.4 + 0.3 * clip as f64,
    });
    let loss = || {
        parameters.zero_gradients().unwrap();
        let found = model
            .train_with_ctc(&batch, None, Pass::default(), &transcripts)
            .unwrap();
        let nats = found.ctc.iter().zip(&transcripts);
        found.loss.read().unwrap().loss + nats.map(|(nats, t)| nats * t.weight).sum::<f64>()
    };
    loss();
    let gradients: Vec<Vec<f32>> = parameters
        .entries
        .iter()
        .map(|entry| {
            let gradient = parameters.gradient(entry).unwrap();
            gradient.flatten_all().unwrap().to_vec1().unwrap()
        })
        .collect();
    for (entry, gradient) in parameters.entries.iter().zip(&gradients) {
        // Along the gradient itself, so that rounding is small beside the difference.
        let length = gradient
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(length > 1e-4, "{} has a gradient", entry.name);
        let before: Vec<f32> = flat(&parameters.value(entry).unwrap());
        let moved = |step: f64| {
            let along = before.iter().zip(gradient);
            let values: Vec<f32> = along
                .map(|(v, g)| v + (step * f64::from(*g) / length) as f32)
                .collect();
            parameters.set(entry, &values).unwrap();
            let loss = loss();
            parameters.set(entry, &before).unwrap();
            loss
        };
        let step = 4e-3;
        let found = (moved(step) - moved(-step)) / (2.0 * step);
        // f32 losses of about 10 are rounded in the sixth digit.
        assert!(
            (found - length).abs() < 1e-2 * length + 1e-3,
            "{}: {found}, expected {length}",
            entry.name
        );
    }
}

/// The head would learn, and the projector would not.
#[test]
fn a_ctc_loss_on_embeddings_without_a_backward_is_an_error() {
    let dir = fixture("qwen_omni");
    let config = Config::load(&dir).unwrap();
    let weights = config.weights(&dir).unwrap();
    let plan = Plan {
        full: vec![Part::Projector],
        ctc: vec!['a', 'b', 'c'],
        ..Plan::default()
    };
    let mut model = AudioLlm::new(config, &weights, plan, true, &Device::Cpu).unwrap();
    let batch = batch(&model.config);
    let transcript = Transcript {
        clip: 0,
        units: SPELLED[0],
        weight: 1.0,
    };
    model.set_trained(Part::Projector, false);
    let pass = Pass::default();
    let ahead = model.embed_audio_ahead(&batch, pass).unwrap();
    assert!(ahead.is_some());
    model.set_trained(Part::Projector, true);
    let found = model.train_with_ctc(&batch, ahead, pass, &[transcript]);
    let error = found.err().unwrap().to_string();
    assert!(error.contains("does not reach the projector"), "{error}");
    model
        .train_with_ctc(&batch, None, pass, &[transcript])
        .unwrap();
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

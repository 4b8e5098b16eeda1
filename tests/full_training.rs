//! Training whole parts: every gradient against central differences of the loss, freezing stage by stage.

mod golden;

use golden::Golden;
use golden::flat;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::model::AudioLlm;
use maqam::model::Pass;
use maqam::model::lora::Plan;
use maqam::model::lora::Settings;
use maqam::parts::Parts;
use maqam::parts::Training;

const ALL: Parts = Parts { audio_encoder: Training::Full, projector: Training::Full, decoder: Training::Full };

fn batch(golden: &Golden) -> Batch {
    let mut sequences: Vec<Sequence> = golden.sequences();
    let targets: usize = sequences.iter().map(Sequence::num_targets).sum();
    sequences.iter_mut().for_each(|sequence| sequence.target_weight = 1.0 / targets as f64);
    Batch::pack(&sequences.iter().collect::<Vec<_>>(), 200).unwrap()
}

fn model(golden: &Golden, parts: &Parts) -> AudioLlm {
    let config = maqam::model::config::Config::load(&golden.dir).unwrap();
    golden.model(Plan::from_settings(&Settings::default(), parts, &config).unwrap(), true)
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    for name in ["qwen_omni", "qwen_omni_tied"] {
        let golden = Golden::load(name);
        let model = model(&golden, &ALL);
        let batch = batch(&golden);
        model.train(&batch, Pass::default()).unwrap();
        assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
        let (values, gradients) = (flat(&model.parameters.values), flat(&model.parameters.gradients));
        for entry in &model.parameters.entries {
            let (start, slope) = (&values[entry.range.clone()], &gradients[entry.range.clone()]);
            let square: f64 = slope.iter().map(|&g| f64::from(g).powi(2)).sum();
            let step = (2e-3 / square.sqrt()).min(0.5);
            let loss_at = |factor: f64| {
                let moved: Vec<f32> = start.iter().zip(slope).map(|(&x, &g)| x + (factor * step * f64::from(g)) as f32).collect();
                model.parameters.set(entry, &moved).unwrap();
                model.score(&batch, 0.0).unwrap().loss
            };
            let found = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * step);
            model.parameters.set(entry, start).unwrap();
            assert!((found - square).abs() < 0.03 * square, "{name}: {}: slope {found:e}, gradient {square:e}", entry.name);
        }
    }
}

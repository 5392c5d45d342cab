use std::ops::ControlFlow;

use candle_core::DType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::adapter::Layout;
use super::objective::*;
use super::*;
use crate::lora::Target;
use crate::testing::{default_model, random_model, reference};
use crate::{Engine, EngineOptions, ModelFiles, ScoreJob, Text};

fn on_f32(targets: &[Target]) -> TrainOptions {
    let lora = LoraShape { rank: 4, alpha: 8.0, targets: targets.to_vec() };
    TrainOptions { lora, precision: TrainPrecision::F32, threads: 2, ..TrainOptions::default() }
}

/// A fixed seed: rounding errors depend on the values.
fn fixed() -> StdRng {
    StdRng::seed_from_u64(7)
}

/// A trainer with random nonzero A and B, so that no gradient vanishes.
fn stirred(files: &ModelFiles, options: TrainOptions) -> Trainer {
    let mut trainer = Trainer::new(files, options).unwrap();
    let mut random = fixed();
    let (layout, rank) = (trainer.layout.clone(), trainer.layout.shape.rank);
    for layer in 0..files.config().layers {
        for target in Target::ALL {
            let Some(pair) = layout.pair(layer, target) else { continue };
            let (a, b) = layout.both(&mut trainer.values, pair);
            a[..rank * pair.columns]
                .iter_mut()
                .for_each(|value| *value = random.random_range(-0.2..0.2));
            b[..rank * pair.out]
                .iter_mut()
                .for_each(|value| *value = random.random_range(-0.2..0.2));
        }
    }
    trainer
}

fn tokens(count: usize, salt: u32) -> Vec<u32> {
    (0..count as u32).map(|at| (at * 37 + salt * 11 + 3) % 90 + 3).collect()
}

fn examples() -> Vec<Example> {
    let example = |prompt: usize, answers: &[usize], target: TrainingTarget| Example {
        prompt: tokens(prompt, answers.len() as u32),
        continuations: answers
            .iter()
            .enumerate()
            .map(|(at, count)| tokens(*count, at as u32 + 5))
            .collect(),
        target,
    };
    vec![
        example(13, &[1, 3, 2], TrainingTarget::Distribution(vec![0.0, 1.0, 0.0])),
        example(70, &[4], TrainingTarget::Answer),
        example(5, &[2, 2], TrainingTarget::Rewards(vec![1.0, -1.0])),
        example(6, &[1, 2, 1], TrainingTarget::AnyOf(vec![true, false, true])),
        example(9, &[3], TrainingTarget::Quantile(0.8)),
        example(6, &[2], TrainingTarget::Desirable(true)),
        example(7, &[4], TrainingTarget::Desirable(false)),
        example(8, &[3, 1], TrainingTarget::Pair),
        example(4, &[2, 3, 1], TrainingTarget::Group(vec![1.0, 0.0, 0.5])),
    ]
}

/// Loss and gradient of a batch.
fn loss_and_gradient(trainer: &mut Trainer, examples: &[Example]) -> (f64, Vec<f32>) {
    let (loss, gradient, _) = trainer.gradient(examples).unwrap();
    (loss, gradient)
}

#[test]
fn gradients_are_those_of_finite_differences_for_every_module() {
    let dir = tempfile::tempdir().unwrap();
    // three query heads per KV head, as in the default model
    random_model(dir.path(), 6, 2, 16, 160, &mut fixed());
    let files = ModelFiles::open(dir.path()).unwrap();
    // excluded: GRPO computes its ratio to the current policy, so the loss does not change with the
    // parameters as the gradient states, and KTO's reference point changes too; the reference test
    // covers both
    let examples: Vec<Example> = examples()
        .into_iter()
        .filter(|example| {
            !matches!(example.target, TrainingTarget::Group(_) | TrainingTarget::Desirable(_))
        })
        .collect();
    for target in Target::ALL {
        let mut trainer = stirred(&files, on_f32(&[target]));
        let (_, gradient) = loss_and_gradient(&mut trainer, &examples);
        let values = trainer.values.clone();
        let layout = trainer.layout.clone();
        for matrix in ["lora_A", "lora_B"] {
            // along the gradient by this matrix alone, the directional derivative is its norm
            let mut direction = vec![0.0_f32; values.len()];
            for layer in 0..files.config().layers {
                let pair = layout.pair(layer, target).unwrap();
                let middle = pair.at + layout.padded * pair.columns;
                let range = if matrix == "lora_A" {
                    pair.at..middle
                } else {
                    middle..middle + layout.padded * pair.out
                };
                direction[range.clone()].copy_from_slice(&gradient[range]);
            }
            let norm = direction.iter().map(|d| f64::from(*d) * f64::from(*d)).sum::<f64>().sqrt();
            assert!(norm > 1e-4, "{target:?} {matrix}: no gradient");
            let mut loss_at = |step: f64| {
                trainer.values = values
                    .iter()
                    .zip(&direction)
                    .map(|(v, d)| v + (f64::from(*d) * step / norm) as f32)
                    .collect();
                loss_and_gradient(&mut trainer, &examples).0
            };
            let step = (2e-3 / norm).clamp(1e-3, 3e-2);
            let found = (loss_at(step) - loss_at(-step)) / (2.0 * step);
            assert!(
                (found - norm).abs() < 0.01 * norm,
                "{target:?} {matrix}: {found} by differences, {norm} by the backward pass"
            );
        }
    }
}

#[test]
fn what_prompts_begin_with_in_common_goes_through_once_and_changes_no_gradient() {
    let dir = tempfile::tempdir().unwrap();
    random_model(dir.path(), 6, 2, 16, 160, &mut fixed());
    let files = ModelFiles::open(dir.path()).unwrap();
    let mut trainer = stirred(&files, on_f32(&Target::ALL));
    let with_beginning = |example: Example, length: usize| {
        let prompt = tokens(length, 9).into_iter().chain(example.prompt).collect();
        Example { prompt, ..example }
    };
    let anchor = Example {
        prompt: tokens(21, 3),
        continuations: vec![tokens(7, 1)],
        target: TrainingTarget::Anchor,
    };
    for length in [9, 17, 70] {
        // one prompt is the prefix alone; the anchor does not have the prefix
        let mut examples: Vec<Example> =
            examples().into_iter().take(4).map(|example| with_beginning(example, length)).collect();
        examples.push(Example {
            prompt: tokens(length, 9),
            continuations: vec![tokens(3, 2)],
            target: TrainingTarget::Answer,
        });
        examples.push(anchor.clone());
        let (loss, gradient, counted) = trainer.gradient(&examples).unwrap();
        let (mut losses, mut sum, mut apart) = (0.0, vec![0.0_f32; gradient.len()], 0);
        for example in &examples {
            let (loss, gradient, tokens) = trainer.gradient(std::slice::from_ref(example)).unwrap();
            losses += loss / examples.len() as f64;
            sum.iter_mut()
                .zip(&gradient)
                .for_each(|(sum, part)| *sum += part / examples.len() as f32);
            apart += tokens;
        }
        assert_eq!(counted, apart, "shared tokens are counted for each prompt");
        assert!((loss - losses).abs() < 1e-5 * losses.abs(), "{length}: {loss} and {losses}");
        let largest = sum.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let away = gradient.iter().zip(&sum).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
        assert!(away < 1e-4 * largest, "{length}: {away} beside {largest}");
        let together =
            micro_batch::MicroBatch::new(&examples, &[0, 1, 2, 3, 4, 5], &[None; 6], true);
        let beginning = length - 1;
        assert_eq!(together.batch.tokens.len() + 4 * beginning, counted as usize);
    }
}

#[test]
fn what_is_padded_stays_zero_and_checkpoints_change_nothing() {
    let files = ModelFiles::open(&reference("tiny-llama3")).unwrap();
    let examples = examples();
    let mut kept = Trainer::new(&files, on_f32(&Target::ALL)).unwrap();
    let mut again =
        Trainer::new(&files, TrainOptions { checkpoint: true, ..on_f32(&Target::ALL) }).unwrap();
    for trainer in [&mut kept, &mut again] {
        trainer.run(&examples, None, &mut |_| ControlFlow::Continue(())).unwrap();
    }
    assert_eq!(kept.values, again.values);
    let layout: &Layout = &kept.layout;
    let pair = layout.pair(0, Target::Up).unwrap();
    let (a, b) = (layout.a(&kept.values, pair), layout.b(&kept.values, pair));
    assert!(a[4 * pair.columns..].iter().chain(&b[4 * pair.out..]).all(|value| *value == 0.0));
    assert!(b[..4 * pair.out].iter().any(|value| *value != 0.0), "B is unchanged by training");
}

#[test]
fn an_interrupted_run_gives_the_same_adapter() {
    let (files, dir) =
        (ModelFiles::open(&reference("tiny-llama3")).unwrap(), tempfile::tempdir().unwrap());
    // prompts share a prefix, and some examples need reference log-probabilities
    let begun = |example: Example| Example {
        prompt: tokens(20, 9).into_iter().chain(example.prompt).collect(),
        ..example
    };
    let (examples, state) =
        (examples().into_iter().map(begun).collect::<Vec<_>>(), dir.path().join("run.state"));
    let options = TrainOptions { epochs: 4, batch: 3, ..on_f32(&[Target::Q, Target::Down]) };
    let mut whole = Trainer::new(&files, options.clone()).unwrap();
    let summary = whole.run(&examples, None, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(summary.complete && summary.steps == 12 && summary.losses.len() == 12);
    let end_at = |step: u64| {
        move |progress: &Progress| {
            if progress.step == step { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    };
    for step in [2, 3, 7, 100] {
        let mut part = Trainer::new(&files, options.clone()).unwrap();
        let summary = part.run(&examples, Some(&state), &mut end_at(step)).unwrap();
        assert_eq!((summary.steps, summary.complete), (step.min(12), step >= 12));
        if summary.complete {
            assert_eq!(part.values, whole.values, "differs from one uninterrupted run");
        }
    }
    assert!(!state.exists(), "a completed run must delete its checkpoint");
    // a checkpoint of other examples is ignored
    let mut part = Trainer::new(&files, options.clone()).unwrap();
    part.run(&examples, Some(&state), &mut end_at(2)).unwrap();
    let mut other = Trainer::new(&files, options).unwrap();
    let summary =
        other.run(&examples[1..], Some(&state), &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(summary.complete && summary.losses.len() as u64 == summary.steps);
}

/// Scores of the serving engine with a saved adapter.
fn served(
    files: &ModelFiles,
    folder: &std::path::Path,
    example: &Example,
    options: EngineOptions,
) -> Vec<f64> {
    let text = std::sync::Arc::new(Text::load(files).unwrap());
    let mut engine = Engine::load(files, text, &candle_core::Device::Cpu, options).unwrap();
    let adapter = engine.load_adapter("trained", folder).unwrap();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    engine.score(ScoreJob {
        prompt: example.prompt.clone(),
        cacheable_prefix: 0,
        continuations: example.continuations.clone(),
        adapter: Some(adapter),
        reply: Box::new(move |scores| send.send(scores).unwrap()),
        cancelled: Box::new(|| false),
    });
    while engine.has_work() {
        engine.step().unwrap();
    }
    receive.recv().unwrap().unwrap().iter().map(|score| score.total()).collect()
}

#[test]
fn a_saved_adapter_is_served_as_it_was_trained() {
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::open(&default_model()).unwrap();
    for (precision, quantisation, tolerance) in [
        (TrainPrecision::F32, crate::Quantisation::F32, 2e-3),
        (TrainPrecision::Auto, crate::Quantisation::None, 0.3),
    ] {
        let mut trainer = stirred(&files, TrainOptions { precision, ..on_f32(&Target::ALL) });
        trainer.values.iter_mut().for_each(|value| *value *= 0.15);
        let example = Example {
            prompt: tokens(40, 1),
            continuations: vec![tokens(1, 2), tokens(3, 3), tokens(5, 4)],
            target: TrainingTarget::Distribution(vec![1.0, 0.0, 0.0]),
        };
        let trained =
            trainer.log_probabilities(std::slice::from_ref(&example), true).unwrap().remove(0);
        let base =
            trainer.log_probabilities(std::slice::from_ref(&example), false).unwrap().remove(0);
        trainer.save(dir.path()).unwrap();
        let options = EngineOptions {
            adapter_precision: crate::AdapterPrecision::File,
            quantisation,
            ..EngineOptions::default()
        };
        let scores = served(&files, dir.path(), &example, options);
        for ((trained, base), score) in trained.iter().zip(&base).zip(scores) {
            let total = |logps: &[f32]| logps.iter().map(|logp| f64::from(*logp)).sum::<f64>();
            assert!(
                (total(trained) - score).abs() < tolerance * trained.len() as f64,
                "trained {trained:?}, served {score}"
            );
            assert!((total(base) - total(trained)).abs() > 1e-3, "the adapter has no effect");
        }
        // loading the saved adapter gives the same values
        let mut again = Trainer::new(&files, trainer.options().clone()).unwrap();
        again.begin_from(dir.path()).unwrap();
        assert_eq!(again.values, trainer.values);
    }
}

#[test]
fn products_in_bf16_give_the_gradients_of_f32() {
    if !crate::kernels::has_bf16() {
        return println!("skipped: no bf16 products on this processor");
    }
    let files = ModelFiles::open(&default_model()).unwrap();
    let example = Example {
        prompt: tokens(60, 1),
        continuations: vec![tokens(2, 2), tokens(3, 3)],
        target: TrainingTarget::Distribution(vec![1.0, 0.0]),
    };
    let [exact, rounded] = [TrainPrecision::F32, TrainPrecision::Bf16].map(|precision| {
        let mut trainer =
            Trainer::new(&files, TrainOptions { precision, ..on_f32(&Target::ALL) }).unwrap();
        loss_and_gradient(&mut trainer, std::slice::from_ref(&example))
    });
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let cosine =
        dot(&exact.1, &rounded.1) / (dot(&exact.1, &exact.1) * dot(&rounded.1, &rounded.1)).sqrt();
    assert!(
        (exact.0 - rounded.0).abs() < 0.03 * exact.0.abs() + 0.03 && cosine > 0.99,
        "{} and {}, cosine {cosine}",
        exact.0,
        rounded.0
    );
}

#[test]
fn what_cannot_be_trained_is_named() {
    let files = ModelFiles::open(&reference("tiny-llama3")).unwrap();
    let refusal = |options: TrainOptions| Trainer::new(&files, options).unwrap_err().to_string();
    assert!(refusal(TrainOptions { batch: 0, ..TrainOptions::default() }).contains("batch is 0"));
    let lora =
        |rank: usize, targets: &[Target]| LoraShape { rank, alpha: 1.0, targets: targets.to_vec() };
    assert!(
        refusal(TrainOptions { lora: lora(0, &[Target::Q]), ..TrainOptions::default() })
            .contains("rank is 0")
    );
    assert!(
        refusal(TrainOptions { lora: lora(4, &[]), ..TrainOptions::default() })
            .contains("targets is empty")
    );
    let optimiser = AdamW { learning_rate: f64::NAN, ..AdamW::default() };
    assert!(
        refusal(TrainOptions { optimiser, ..TrainOptions::default() })
            .contains("learning_rate is NaN")
    );
    let mut trainer = Trainer::new(&files, on_f32(&[Target::Q])).unwrap();
    let mut refuse = |examples: &[Example]| {
        trainer.run(examples, None, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
    };
    let good = examples().remove(0);
    assert!(refuse(&[]).contains("no examples"));
    assert!(
        refuse(&[good.clone(), Example { prompt: vec![], ..good.clone() }])
            .contains("example 2: its prompt")
    );
    assert!(refuse(&[Example { prompt: vec![9_999], ..good.clone() }]).contains("9999"));
    assert!(
        refuse(&[Example { prompt: vec![5; 400], ..good.clone() }]).contains("the model holds 256")
    );
    assert!(
        refuse(&[Example { target: TrainingTarget::Distribution(vec![0.5, 0.5]), ..good.clone() }])
            .contains("3 continuations, expected 2")
    );
    assert!(
        refuse(&[Example { target: TrainingTarget::Distribution(vec![0.5, 0.2, 0.2]), ..good }])
            .contains("sum up to 1")
    );
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
    let reported: serde_json::Value =
        serde_json::from_slice(&std::fs::read(reference("training.json")).unwrap()).unwrap();
    let files = ModelFiles::open(&reference("tiny-llama3")).unwrap();
    let folder = reference("tiny-llama3/lora");
    let lora = LoraShape {
        rank: reported["rank"].as_u64().unwrap() as usize,
        alpha: reported["alpha"].as_f64().unwrap(),
        targets: Target::ALL.to_vec(),
    };
    let options = TrainOptions {
        lora,
        precision: TrainPrecision::F32,
        threads: 1,
        ..TrainOptions::default()
    };
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
    for case in reported["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let examples: Vec<Example> = serde_json::from_value(case["examples"].clone()).unwrap();
        let mut trainer = Trainer::new(&files, options.clone()).unwrap();
        trainer.begin_from(&folder).unwrap();
        let (loss, gradient, _) = trainer.gradient(&examples).unwrap();
        let expected = case["loss"].as_f64().unwrap();
        assert!(close(loss, expected), "{name}: loss {loss}, expected {expected}");
        // through a saved folder, so that names and row order are PEFT's
        let dir = tempfile::tempdir().unwrap();
        trainer.values = gradient;
        trainer.save(dir.path()).unwrap();
        let tensors = candle_core::safetensors::load(
            dir.path().join("adapter_model.safetensors"),
            &candle_core::Device::Cpu,
        )
        .unwrap();
        for (tensor, expected) in case["gradients"].as_object().unwrap() {
            let found = tensors[tensor]
                .to_dtype(DType::F32)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(found.len(), expected.len(), "{name} {tensor}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    close(f64::from(*found), expected),
                    "{name} {tensor}: {found}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn losses_move_the_way_they_say() {
    let settings = LossSettings::default();
    // each analytic gradient matches finite differences of its loss
    let slope = |f: &dyn Fn(f64) -> f64, at: f64| (f(at + 1e-5) - f(at - 1e-5)) / 2e-5;
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6 * (1.0 + b.abs()), "{a} and {b}");
    let (logps, refs) = ([-3.0, -1.5, -2.2], [-2.0, -2.5, -2.1]);
    for at in 0..3 {
        let moved = |x: f64| {
            let mut logps = logps;
            logps[at] = x;
            logps
        };
        near(
            choice(&logps, &[0.2, 0.8, 0.0]).1[at],
            slope(&|x| choice(&moved(x), &[0.2, 0.8, 0.0]).0, logps[at]),
        );
        let marked = [true, false, true];
        near(any_of(&logps, &marked).1[at], slope(&|x| any_of(&moved(x), &marked).0, logps[at]));
        let rewards = [1.0, -1.0, 0.5];
        near(
            qrpo_choices(&logps, &refs, &rewards, 0.3).1[at],
            slope(&|x| qrpo_choices(&moved(x), &refs, &rewards, 0.3).0, logps[at]),
        );
    }
    near(qrpo(-3.0, -2.5, 0.7, 0.2).1, slope(&|x| qrpo(x, -2.5, 0.7, 0.2).0, -3.0));
    for liked in [true, false] {
        near(
            kto(-3.0, -2.5, liked, 0.4, &settings).1,
            slope(&|x| kto(x, -2.5, liked, 0.4, &settings).0, -3.0),
        );
    }
    near(
        dpo([-3.0, -2.0], [-2.5, -2.5], 0.5).1[0],
        slope(&|x| dpo([x, -2.0], [-2.5, -2.5], 0.5).0, -3.0),
    );
    near(
        grpo(&[-1.0], &[-1.1], &[-0.9], 0.7, &settings).1[0],
        slope(&|x| grpo(&[x], &[-1.1], &[-0.9], 0.7, &settings).0, -1.0),
    );
    // a clipped ratio contributes no gradient; the KL term is 0 here
    assert_eq!(grpo(&[-0.5], &[-1.5], &[-0.5], 1.0, &settings).1, [0.0]);
    // the partition function for uniform quantiles, and its limit for small β
    for beta in [0.01_f64, 0.1, 1.0, 10.0] {
        let steps = 200_000;
        let z: f64 = (0..steps)
            .map(|at| ((at as f64 + 0.5) / f64::from(steps) / beta).exp() / f64::from(steps))
            .sum();
        if z.is_finite() {
            assert!((qrpo_partition(beta) - beta * z.ln()).abs() < 1e-4, "{beta}");
        }
    }
    near(qrpo_partition(0.001), 0.001 * 0.001_f64.ln() + 1.0);
    // the optimum of QRPO over choices is the reference tilted by e^{q/β}, where the loss is 0
    let rewards = [1.0, -1.0, -1.0];
    let reference: Vec<f64> = {
        let total = log_sum_exp(&refs);
        refs.iter().map(|r| r - total).collect()
    };
    let good = reference[0].exp();
    let q = [1.0 - good / 2.0, (1.0 - good) / 2.0, (1.0 - good) / 2.0];
    let tilted: Vec<f64> = reference.iter().zip(&q).map(|(p, q)| p + q / 0.5).collect();
    assert!(qrpo_choices(&tilted, &refs, &rewards, 0.5).0 < 1e-20);
    assert_eq!(advantages(&[2.0, 2.0]), [0.0, 0.0]);
}

use super::*;

fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    change(&mut params);
    params
}

/// How often each of the tokens is drawn in `draws`.
fn counts(params: SamplingParams, logits: &[f32], draws: u64) -> Vec<f64> {
    let mut counts = vec![0.0; logits.len()];
    for seed in 0..draws {
        let (token, _) =
            Sampler::new(SamplingParams { seed, ..params.clone() }, &[]).sample(logits);
        counts[token as usize] += 1.0 / draws as f64;
    }
    counts
}

#[test]
fn draws_follow_the_softmax() {
    let logits = [1.0, 0.0, -1.0, 2.0];
    let total: f64 = logits.iter().map(|logit: &f32| f64::from(logit.exp())).sum();
    for (found, logit) in counts(params(|_| ()), &logits, 20_000).iter().zip(logits) {
        assert!(
            (found - f64::from(logit.exp()) / total).abs() < 0.015,
            "{found} for logit {logit}"
        );
    }
}

#[test]
fn filters_keep_what_they_say() {
    let logits = [3.0, 2.9, 0.0, -4.0];
    let kept = |change: fn(&mut SamplingParams)| -> Vec<usize> {
        counts(params(change), &logits, 4_000)
            .iter()
            .enumerate()
            .filter(|(_, share)| **share > 0.0)
            .map(|(token, _)| token)
            .collect()
    };
    assert_eq!(kept(|p| p.top_k = 2), [0, 1]);
    assert_eq!(kept(|p| p.top_p = 0.5), [0]);
    assert_eq!(kept(|p| p.top_p = 0.9), [0, 1]);
    assert_eq!(kept(|p| p.min_p = 0.5), [0, 1]);
    assert_eq!(kept(|p| p.temperature = 0.01), [0]);
    assert_eq!(kept(|p| p.temperature = 0.0), [0]);
    assert_eq!(kept(|p| p.logit_bias = vec![(0, -100.0), (1, -100.0), (2, -100.0)]), [3]);
}

#[test]
fn the_first_of_equals_is_found_wherever_it_is() {
    for best in [0, 1, 63, 64, 65, 700, 999] {
        let mut logits = vec![0.0; 1000];
        logits[best..].iter_mut().step_by(100).for_each(|logit| *logit = 2.0);
        for logit_bias in [vec![], vec![(5, -1.0)]] {
            let change =
                |p: &mut SamplingParams| (p.temperature, p.logit_bias) = (0.0, logit_bias.clone());
            assert_eq!(Sampler::new(params(change), &[]).sample(&logits).0, best as u32);
        }
    }
}

#[test]
fn nucleus_over_a_flat_distribution_keeps_its_share() {
    // far more candidates than are sorted first
    let logits = vec![0.0; 4096];
    let mut sampler = Sampler::new(params(|p| p.top_p = 0.5), &[]);
    (0..500).for_each(|_| assert!(sampler.sample(&logits).0 < 2048));
}

#[test]
fn penalties_lower_repeated_tokens() {
    let logits = [2.0, 1.9];
    let mut presence =
        Sampler::new(params(|p| (p.temperature, p.presence_penalty) = (0.0, 0.2)), &[]);
    assert_eq!(
        [presence.sample(&logits).0, presence.sample(&logits).0, presence.sample(&logits).0],
        [0, 1, 0]
    );
    let mut frequency =
        Sampler::new(params(|p| (p.temperature, p.frequency_penalty) = (0.0, 0.15)), &[]);
    assert_eq!((0..4).map(|_| frequency.sample(&logits).0).collect::<Vec<_>>(), [0, 1, 0, 1]);
    let mut repetition =
        Sampler::new(params(|p| (p.temperature, p.repetition_penalty) = (0.0, 1.2)), &[0]);
    assert_eq!(repetition.sample(&logits).0, 1);
}

#[test]
fn the_same_seed_draws_the_same() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32) / 20.0).collect();
    let draw = |seed| {
        let mut sampler = Sampler::new(params(|p| p.seed = seed), &[]);
        (0..20).map(|_| sampler.sample(&logits).0).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn statistics_are_of_the_raw_distribution() {
    let (token, stats) =
        Sampler::new(params(|p| (p.temperature, p.logit_bias) = (0.0, vec![(1, 50.0)])), &[])
            .sample(&[0.0, 0.0]);
    assert_eq!(token, 1);
    assert!(
        (stats.logprob - 0.5_f32.ln()).abs() < 1e-6 && (stats.entropy - 2.0_f32.ln()).abs() < 1e-6
    );
    assert_eq!(best_tokens(&[0.5, 2.0, 2.0, -1.0], 3), [1, 2, 0]);
}

#[test]
fn bad_values_are_named() {
    type Change = fn(&mut SamplingParams);
    let wrong: [(Change, &str); 12] = [
        (|p| p.temperature = -0.1, "temperature"),
        (|p| p.temperature = f32::NAN, "temperature"),
        (|p| p.top_p = 0.0, "top_p"),
        (|p| p.min_p = 1.0, "min_p"),
        (|p| p.repetition_penalty = 0.0, "repetition_penalty"),
        (|p| p.presence_penalty = 2.1, "presence_penalty"),
        (|p| p.frequency_penalty = f32::INFINITY, "frequency_penalty"),
        (|p| p.logit_bias = vec![(100, 0.0)], "token 100"),
        (|p| p.logit_bias = vec![(1, 101.0)], "logit_bias"),
        (|p| p.logprobs = Some(21), "top_logprobs"),
        (|p| p.max_tokens = 0, "max_tokens"),
        (|p| p.stop = vec![String::new()], "stop"),
    ];
    for (change, name) in wrong {
        let error = params(change).validate(100).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    params(|_| ()).validate(100).unwrap();
}

//! Simulations with known optima, from fixed seeds.

use super::*;
use crate::test_rng::TestRng;

const EPSILON: f64 = 0.02;
const TEMPERATURE: f64 = 0.5;
const ARMS: usize = 5;

fn settings(decay: f64) -> BanditSettings {
    BanditSettings { learning_rate: 0.3, decay, max_weight: 5.0, temperature: TEMPERATURE }
}

/// Five specialists and five kinds of question: the similarity prefers each kind's own specialist,
/// and does not depend on their quality.
struct World {
    /// `[kinds][candidates]`: the probability of a reward of 1, else −1.
    chances: [[f64; ARMS]; ARMS],
}

impl World {
    /// Each specialist is good at its own kind, except the one with a bad adapter; one does well on
    /// all kinds.
    fn with_a_bad_one(bad: usize, allrounder: usize) -> Self {
        let chance = |kind: usize, arm: usize| match arm {
            _ if arm == bad => 0.1,
            _ if arm == kind => 0.9,
            _ if arm == allrounder => 0.7,
            _ => 0.3,
        };
        Self { chances: std::array::from_fn(|kind| std::array::from_fn(|arm| chance(kind, arm))) }
    }

    fn unweighted(kind: usize) -> [f64; ARMS] {
        std::array::from_fn(|arm| if arm == kind { 1.0 } else { 0.0 })
    }

    fn policy(kind: usize, weights: &[f64]) -> Vec<f64> {
        let logits: Vec<f64> = Self::unweighted(kind)
            .iter()
            .zip(weights)
            .map(|(logit, weight)| logit + weight)
            .collect();
        propensities(&logits, TEMPERATURE, EPSILON)
    }

    /// The expected reward per decision with these weights.
    fn value(&self, weights: &[f64]) -> f64 {
        let of = |kind: usize| {
            Self::policy(kind, weights)
                .iter()
                .zip(&self.chances[kind])
                .map(|(p, chance)| p * (2.0 * chance - 1.0))
                .sum()
        };
        (0..ARMS).map(of).collect::<Vec<f64>>().iter().sum::<f64>() / ARMS as f64
    }

    /// The expected reward of the best weights within the bound, by coordinate search.
    fn best_value(&self, bound: f64) -> f64 {
        let mut weights = vec![0.0; ARMS];
        let mut best = self.value(&weights);
        let mut step = bound / 2.0;
        while step > 0.01 {
            let before = best;
            for arm in 0..ARMS {
                for moved in [weights[arm] - step, weights[arm] + step] {
                    let old = std::mem::replace(&mut weights[arm], moved.clamp(-bound, bound));
                    let value = self.value(&weights);
                    if value > best { best = value } else { weights[arm] = old }
                }
            }
            if best - before < 1e-6 {
                step /= 2.0;
            }
        }
        best
    }

    /// One question: drawn, answered and rewarded.
    fn turn(&self, random: &mut TestRng, learner: &mut Learner) -> usize {
        let kind = random.below(ARMS);
        let shares = Self::policy(kind, &learner.weights);
        let chosen = draw(random, &shares);
        let reward = if random.unit() < self.chances[kind][chosen] { 1.0 } else { -1.0 };
        let unweighted = Self::unweighted(kind);
        let key = BaselineKey { source: "feedback".into(), kind: kind.to_string() };
        learner.reward(
            &key,
            &Drawn { unweighted: &unweighted, chosen, propensity: shares[chosen] },
            reward,
        );
        chosen
    }
}

fn draw(random: &mut TestRng, shares: &[f64]) -> usize {
    let mut left = random.unit();
    shares
        .iter()
        .position(|share| {
            left -= share;
            left < 0.0
        })
        .unwrap_or(shares.len() - 1)
}

#[test]
fn regret_grows_slower_than_time_and_stays_below_fixed_routing() {
    const ROUNDS: usize = 6_400;
    let world = World::with_a_bad_one(3, 1);
    let best = world.best_value(5.0);
    let fixed = (best - world.value(&[0.0; ARMS])) * ROUNDS as f64;
    let (mut early, mut late) = (0.0, 0.0);
    for seed in 1..=4 {
        let mut random = TestRng::of(seed);
        let mut learner = Learner::new(settings(0.0), ARMS);
        let mut regret = 0.0;
        for round in 1..=ROUNDS {
            regret += best - world.value(&learner.weights);
            world.turn(&mut random, &mut learner);
            if round == ROUNDS / 4 {
                early += regret;
            }
        }
        assert!(
            regret < 0.5 * fixed,
            "seed {seed}: a regret of {regret}, {fixed} without learning"
        );
        late += regret;
    }
    // four times the rounds: the regret would quadruple if it grew linearly, and double if it grew
    // with the square root
    assert!(late < 2.6 * early, "{early} after a quarter of the rounds, {late} after all");
}

#[test]
fn an_arm_that_goes_bad_is_left_within_200_rewarded_decisions() {
    for seed in 1..=10 {
        let mut random = TestRng::of(seed);
        let mut learner = Learner::new(settings(0.005), ARMS);
        let mut world = World::with_a_bad_one(3, 1);
        // the generalist is by far the best
        world.chances.iter_mut().for_each(|kind| kind[1] = 0.95);
        for _ in 0..3_000 {
            world.turn(&mut random, &mut learner);
        }
        let before = (0..100).filter(|_| world.turn(&mut random, &mut learner) == 1).count();
        assert!(
            before > 50,
            "seed {seed}: chosen {before} times of 100, weights {:?}",
            learner.weights
        );
        world.chances.iter_mut().for_each(|kind| kind[1] = 0.05);
        for _ in 0..200 {
            world.turn(&mut random, &mut learner);
        }
        let after: f64 =
            (0..ARMS).map(|kind| World::policy(kind, &learner.weights)[1]).sum::<f64>()
                / ARMS as f64;
        assert!(
            after < 0.15,
            "seed {seed}: it still has a share of {after}, weights {:?}",
            learner.weights
        );
    }
}

#[test]
fn off_policy_intervals_cover_the_truth_as_often_as_they_say() {
    const REPLICATIONS: usize = 800;
    const DECISIONS: usize = 300;
    let world = World::with_a_bad_one(3, 1);
    let target: Vec<Vec<f64>> =
        (0..ARMS).map(|kind| World::policy(kind, &[0.0, 0.4, 0.0, -0.6, 0.0])).collect();
    let truth = world.value(&[0.0, 0.4, 0.0, -0.6, 0.0]);
    let logging: Vec<Vec<f64>> =
        (0..ARMS).map(|kind| propensities(&World::unweighted(kind), 1.0, 0.2)).collect();
    // a canary generation answers a fifth of the questions, and is better
    const CANARY: f64 = 0.2;
    let mut random = TestRng::of(11);
    let mut covered = [0_usize; 3];
    let mut errors = [0.0; 3];
    for _ in 0..REPLICATIONS {
        let (mut log, mut policy) = (Vec::with_capacity(DECISIONS), Vec::with_capacity(DECISIONS));
        for _ in 0..DECISIONS {
            let kind = random.below(ARMS);
            let chosen = draw(&mut random, &logging[kind]);
            let common = if random.unit() < CANARY { CANARY } else { 1.0 - CANARY };
            let reward = if random.unit() < world.chances[kind][chosen] { 1.0 } else { -1.0 };
            log.push(LoggedChoice {
                kind,
                chosen,
                propensity: logging[kind][chosen] * common,
                common,
                reward,
            });
            policy.push(target[kind].clone());
        }
        let found = estimate(&log, &policy).unwrap();
        for (index, estimate) in [found.ips, found.snips, found.doubly_robust].iter().enumerate() {
            covered[index] +=
                usize::from((estimate.interval[0]..=estimate.interval[1]).contains(&truth));
            errors[index] += (estimate.value - truth).powi(2);
        }
    }
    for (covered, name) in covered.iter().zip(["ips", "snips", "doubly robust"]) {
        let rate = *covered as f64 / REPLICATIONS as f64;
        assert!(
            (0.92..=0.98).contains(&rate),
            "{name}: {rate} of the 95 % intervals cover {truth}"
        );
    }
    assert!(
        errors[2] < errors[0] && errors[1] < errors[0],
        "the model and the normalisation help: {errors:?}"
    );
}

#[test]
fn a_weight_moves_as_the_gradient_of_what_is_earned() {
    // the mean step over draws from another policy is the gradient of this policy's value
    let rewards = [1.0, -0.5, 0.25];
    let (unweighted, then, now) = ([0.3, -0.2, 0.1], [0.0, 0.0, 0.0], [0.1, 0.2, -0.1]);
    let sum = |weights: &[f64; 3]| {
        unweighted.iter().zip(weights).map(|(logit, weight)| logit + weight).collect::<Vec<f64>>()
    };
    let logged = propensities(&sum(&then), TEMPERATURE, 0.1);
    let mut mean = [0.0; 3];
    for chosen in 0..3 {
        let start = Learner::new(BanditSettings { learning_rate: 1.0, ..settings(0.0) }, 3);
        let mut learner = Learner { weights: now.to_vec(), ..start };
        let key = BaselineKey { source: "outcome".into(), kind: "a".into() };
        learner.reward(
            &key,
            &Drawn { unweighted: &unweighted, chosen, propensity: logged[chosen] },
            rewards[chosen],
        );
        for arm in 0..3 {
            mean[arm] += logged[chosen] * (learner.weights[arm] - now[arm]);
        }
    }
    let value = |weights: &[f64; 3]| {
        softmax(&sum(weights), TEMPERATURE)
            .iter()
            .zip(&rewards)
            .map(|(share, reward)| share * reward)
            .sum::<f64>()
    };
    for arm in 0..3 {
        let (mut up, mut down) = (now, now);
        up[arm] += 1e-5;
        down[arm] -= 1e-5;
        let slope = (value(&up) - value(&down)) / 2e-5 * TEMPERATURE;
        assert!((mean[arm] - slope).abs() < 1e-6, "arm {arm}: {} is not {slope}", mean[arm]);
    }
}

#[test]
fn an_amendment_moves_by_the_difference_and_bounds_hold() {
    let key = BaselineKey { source: "feedback".into(), kind: "a".into() };
    let drawn = Drawn { unweighted: &[0.0, 0.0], chosen: 0, propensity: 0.5 };
    let mut told_at_once = Learner::new(settings(0.0), 2);
    told_at_once.reward(&key, &drawn, -1.0);
    let mut amended = Learner::new(settings(0.0), 2);
    amended.reward(&key, &drawn, 1.0);
    assert!(amended.weights[0] > 0.0 && amended.weights[1] < 0.0);
    amended.amend(&key, &drawn, -2.0);
    assert!(
        (amended.weights[0] - told_at_once.weights[0]).abs() < 0.05,
        "{amended:?} {told_at_once:?}"
    );
    assert_eq!(amended.baselines, told_at_once.baselines);
    for _ in 0..10_000 {
        amended.amend(&key, &drawn, 10.0);
    }
    assert!(amended.weights.iter().all(|weight| weight.abs() <= 5.0));
    amended.reward(&key, &drawn, f64::NAN);
    assert!(amended.weights.iter().all(|weight| weight.is_finite()));
}

#[test]
fn nothing_is_estimated_of_nothing() {
    assert_eq!(estimate(&[], &[]), None);
    let row = LoggedChoice { kind: 0, chosen: 0, propensity: 0.5, common: 1.0, reward: 1.0 };
    assert_eq!(
        estimate(&[row; 4], &vec![vec![0.0, 1.0]; 4]),
        None,
        "it would never have done what was done"
    );
    let same = estimate(&[row; 4], &vec![vec![0.5, 0.5]; 4]).unwrap();
    assert_eq!((same.ips.value, same.snips.value, same.effective_decisions), (1.0, 1.0, 4.0));
}

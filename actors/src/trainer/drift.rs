//! Drift detection on rewards: a plain state machine per specialist.

use nyx_specialists::gate::{CanaryTrial, CanaryVerdict, PageHinkley};

use super::TrainingOptions;

/// A reward with its generation and canary arm.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardSample {
    pub generation: u64,
    /// During a canary: its id, and whether the canary answered.
    pub of_canary: Option<(String, bool)>,
    pub reward: f64,
    /// The predicted reward, if there was one.
    pub predicted: Option<f64>,
}

/// The action to take.
#[derive(Debug, Clone, PartialEq)]
pub enum DriftAction {
    /// The canary is promoted or retired.
    Canary { adapter: String, verdict: CanaryVerdict, pairs: u32, interval: [f64; 2] },
    /// Rewards have fallen: fall back to the last good generation.
    FallBack { generation: u64 },
}

/// The drift monitor of one specialist.
#[derive(Debug)]
pub struct DriftMonitor {
    options: TrainingOptions,
    generation: u64,
    drift: PageHinkley,
    /// The running mean of the generation's rewards: the prediction where there is none.
    mean: f64,
    count: u32,
    canary: Option<(String, CanaryTrial)>,
}

impl DriftMonitor {
    pub fn new(options: TrainingOptions) -> Self {
        let drift = PageHinkley::new(options.false_alarm_interval);
        Self { options, generation: 0, drift, mean: 0.0, count: 0, canary: None }
    }

    /// Adds a reward.
    pub fn push(&mut self, seen: &RewardSample) -> Option<DriftAction> {
        if let Some((adapter, of_canary)) = &seen.of_canary {
            let verdict = self.try_canary(adapter, *of_canary, seen.reward);
            if verdict.is_some() || *of_canary {
                return verdict;
            }
        }
        if seen.generation < self.generation {
            // answered before the swap
            return None;
        }
        if seen.generation > self.generation {
            (self.generation, self.mean, self.count) = (seen.generation, 0.0, 0);
            self.drift = PageHinkley::new(self.options.false_alarm_interval);
        }
        let predicted =
            seen.predicted.unwrap_or(if self.count == 0 { seen.reward } else { self.mean });
        self.count += 1;
        // slowly, so that a drop is detected before it becomes the expectation
        self.mean += (seen.reward - self.mean) / f64::from(self.count.min(200));
        (self.drift.push(predicted, seen.reward) && self.generation > 0)
            .then_some(DriftAction::FallBack { generation: self.generation })
    }

    fn try_canary(&mut self, adapter: &str, of_canary: bool, reward: f64) -> Option<DriftAction> {
        if self.canary.as_ref().is_none_or(|(name, _)| name != adapter) {
            self.canary = Some((
                adapter.to_owned(),
                CanaryTrial::new(self.options.alpha, self.options.canary_max_samples),
            ));
        }
        let (_, trial) = self.canary.as_mut()?;
        if trial.verdict() != CanaryVerdict::Open {
            return None;
        }
        let verdict = trial.push(of_canary, reward);
        (verdict != CanaryVerdict::Open).then(|| DriftAction::Canary {
            adapter: adapter.to_owned(),
            verdict,
            pairs: trial.pairs(),
            interval: trial.interval(),
        })
    }

    /// Number of reward pairs of the canary, and the progress towards an alarm.
    pub fn standing(&self) -> (Option<u32>, f64) {
        let open = self.canary.as_ref().filter(|(_, trial)| trial.verdict() == CanaryVerdict::Open);
        (open.map(|(_, trial)| trial.pairs()), self.drift.alarm())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(generation: u64, reward: f64) -> RewardSample {
        RewardSample { generation, of_canary: None, reward, predicted: None }
    }

    /// Rewards that are good in `of` of ten.
    fn rewards(of: u32, count: u32) -> impl Iterator<Item = f64> {
        (0..count).map(move |at| if (at * 7) % 10 < of { 1.0 } else { -1.0 })
    }

    #[test]
    fn a_generation_whose_rewards_fall_is_left_and_a_steady_one_is_not() {
        let mut watch = DriftMonitor::new(TrainingOptions {
            false_alarm_interval: 500.0,
            ..TrainingOptions::default()
        });
        assert!(rewards(8, 200).all(|reward| watch.push(&seen(1, reward)).is_none()));
        let after = rewards(1, 100).position(|reward| watch.push(&seen(1, reward)).is_some());
        assert!(after.is_some_and(|after| after < 40), "{after:?}");
        // the next generation starts anew; late rewards of the old one are ignored
        assert!(rewards(8, 50).all(|reward| watch.push(&seen(2, reward)).is_none()));
        assert!(rewards(0, 50).all(|reward| watch.push(&seen(1, reward)).is_none()));
        // the base model has no fallback
        let mut base = DriftMonitor::new(TrainingOptions {
            false_alarm_interval: 500.0,
            ..TrainingOptions::default()
        });
        assert!(
            rewards(8, 60)
                .chain(rewards(0, 60))
                .all(|reward| base.push(&seen(0, reward)).is_none())
        );
    }

    #[test]
    fn a_canary_is_judged_once() {
        let mut watch = DriftMonitor::new(TrainingOptions::default());
        let of = |of_canary: bool, reward: f64| RewardSample {
            of_canary: Some(("c".into(), of_canary)),
            ..seen(1, reward)
        };
        let acts: Vec<DriftAction> = (0..200)
            .flat_map(|_| [of(true, 1.0), of(false, -1.0)])
            .filter_map(|seen| watch.push(&seen))
            .collect();
        assert!(
            matches!(&acts[..], [DriftAction::Canary { adapter, verdict: CanaryVerdict::Better, pairs, .. }] if adapter == "c" && *pairs < 60),
            "{acts:?}"
        );
    }
}

//! The whole loop on one specialist: a scripted user rewards answers by the trials' truth, an adapter is trained from the log alone, tried and
//! promoted; then its file is damaged, and Nyx repairs itself.

use std::collections::BTreeMap;
use std::time::Instant;

use nyx_actors::question::{Question, Target};
use nyx_actors::trainer::{LearningOptions, RunReport, RunStatus};
use nyx_actors::verdict::{DecisionName, FeedbackTold};
use nyx_specialists::gate::held_back;
use serde::Serialize;

use super::adapt::{lessons, told};
use super::choices::{Answered, play};
use super::stage::{Stage, question};
use super::{ChoiceTrial, EvalError, Trials};

/// Who is taught.
const SPECIALIST: &str = "eleos";
/// Questions that are kept back to measure on, at most.
const MEASURED: usize = 150;

/// What came of the loop.
#[derive(Debug, Clone, Serialize)]
pub struct Loop {
    pub requests: usize,
    /// Requests whose answer was rewarded with +1.
    pub liked: usize,
    /// Trait weights before the first and after the last request.
    pub weights: [BTreeMap<String, f64>; 2],
    pub run: RunReport,
    /// Accuracy on what was kept back: before, with the trained adapter, after its file was damaged, and after it was repaired.
    pub before: f64,
    pub trained: f64,
    pub damaged: f64,
    pub repaired: f64,
    pub repair: String,
    pub seconds: f64,
}

impl Loop {
    pub fn lines(&self) -> Vec<String> {
        let Self { requests, liked, before, trained, damaged, repaired, .. } = self;
        vec![format!(
            "loop      {requests} requests, {liked} liked; {before:.3} before, {trained:.3} trained from the log ({}), {damaged:.3} when its file was \
             damaged, {repaired:.3} after {}",
            self.run.status.as_str(),
            self.repair
        )]
    }
}

fn accuracy(answers: &[Answered]) -> f64 {
    answers.iter().filter(|answer| answer.right()).count() as f64 / answers.len().max(1) as f64
}

/// Plays `requests` requests with feedback, then the rest.
///
/// # Errors
/// A question that could not be asked, or feedback that could not be told.
pub async fn play_loop(stage: &Stage, trials: &Trials, learning: &LearningOptions, requests: usize) -> Result<Loop, EvalError> {
    let started = Instant::now();
    let nyx = &stage.nyx;
    let all = trials.choices(SPECIALIST)?;
    let templates = lessons(&all, stage.seed);
    // questions that neither training nor its gate ever sees: dev, whose templates are others
    let dev = Trials { split: "dev".into(), ..trials.clone() };
    let measured: Vec<ChoiceTrial> = dev.choices(SPECIALIST)?.into_iter().take(MEASURED).collect();
    let asked: Vec<ChoiceTrial> = all.into_iter().take(requests).collect();
    let set_aside = templates.iter().take(requests).filter(|lesson| held_back(&lesson.template)).count();
    tracing::info!(requests = asked.len(), set_aside, "the loop begins");
    let weights_before = nyx.trait_weights().await?;
    let before = accuracy(&play(stage, "loop: before", measured.clone()).await?);
    let ask = |trial: ChoiceTrial| async move {
        // half of them by way of the master, whose weights move
        let target = if trial.id.as_bytes().first().is_some_and(|byte| byte % 2 == 0) {
            Target::Master
        } else {
            Target::Specialist(SPECIALIST.into())
        };
        let decision = stage.ask(Question { target, ..question(&trial, stage.seed) }).await?;
        let answer = Answered { trial, decision };
        let value = if answer.right() { 1.0 } else { -1.0 };
        let told = FeedbackTold { value, comment: None, correction: None, told: serde_json::json!({ "value": value }) };
        nyx.feedback(DecisionName::Id(answer.decision.id), told, None).await?;
        Ok(answer)
    };
    let answers = stage.each("loop: asking", asked, ask).await?;
    let weights_after = nyx.trait_weights().await?;
    let mut run = nyx.run_from_log(SPECIALIST, None, learning.clone()).await?;
    (run.canary, run.told) = (false, told("loop: training"));
    let report = nyx.train(run).await?;
    let trained = accuracy(&play(stage, "loop: trained", measured.clone()).await?);
    let (mut damaged, mut repaired, mut repair) = (trained, trained, "nothing was promoted".to_owned());
    if let (RunStatus::Promoted, Some(id)) = (report.status, &report.adapter) {
        damage(&nyx.adapter_folder(id))?;
        nyx.check_adapters().await?;
        damaged = accuracy(&play(stage, "loop: damaged", measured.clone()).await?);
        nyx.check_base().await?;
        let mut run = nyx.run_from_log(SPECIALIST, None, learning.clone()).await?;
        (run.canary, run.told) = (false, told("loop: repairing"));
        let again = nyx.train(run).await?;
        repair = format!("self-repair ({})", again.status.as_str());
        repaired = accuracy(&play(stage, "loop: repaired", measured).await?);
    }
    Ok(Loop {
        requests: answers.len(),
        liked: answers.iter().filter(|answer| answer.right()).count(),
        weights: [weights_before, weights_after],
        run: report,
        before,
        trained,
        damaged,
        repaired,
        repair,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Turns one byte in the middle of an adapter's weights.
fn damage(folder: &std::path::Path) -> Result<(), EvalError> {
    let path = folder.join("adapter_model.safetensors");
    let broken = |error: std::io::Error| EvalError::Dataset { path: path.display().to_string(), reason: error.to_string() };
    let mut bytes = std::fs::read(&path).map_err(broken)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&path, bytes).map_err(broken)
}

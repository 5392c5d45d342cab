//! The whole feedback loop on one specialist, over HTTP: a scripted user rates answers by the
//! cases' correct answers, an adapter is trained on the log alone, gated and promoted; then its
//! file is damaged, and Nyx retrains it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use nyx_actors::trainer::TrainingOptions;
use nyx_actors::{Nyx, NyxError, NyxOptions};
use serde::Serialize;
use serde_json::{Value, json};

use crate::environment::{DEADLINE_MS, EvalEnvironment, bar};
use crate::{ChoiceCase, Dataset, EvalError};

/// The specialist that is trained.
const SPECIALIST: &str = "eleos";
/// Maximum duration of a training run.
const PATIENCE: Duration = Duration::from_secs(5_400);
/// Interval between polls for the end of a run.
const POLL: Duration = Duration::from_millis(500);
/// Maximum size of a response in bytes.
const ANSWER_BYTES: usize = 64 << 20;

/// Results of the loop.
#[derive(Debug, Clone, Serialize)]
pub struct FeedbackLoopReport {
    pub requests: usize,
    /// Requests whose answer was rewarded with +1.
    pub liked: usize,
    /// Trait weights before the first and after the last request.
    pub weights: [BTreeMap<String, f64>; 2],
    /// The training run on the log, and the one after the damage, in the format of
    /// `/admin/training`.
    pub runs: Vec<Value>,
    /// Accuracy on the cases of `dev`, which are not used for training: before, with the trained
    /// adapter, after its file was damaged, and after it was retrained.
    pub before: f64,
    pub trained: f64,
    pub damaged: f64,
    pub repaired: f64,
    pub seconds: f64,
}

impl FeedbackLoopReport {
    /// Summary lines for the terminal.
    pub fn lines(&self) -> Vec<String> {
        let Self { requests, liked, before, trained, damaged, repaired, .. } = self;
        let status = |at: usize| {
            self.runs.get(at).and_then(|run| run["status"].as_str()).unwrap_or("none").to_owned()
        };
        let moved: Vec<String> = (self.weights[1].iter())
            .map(|(name, after)| {
                format!("{name} {:+.3}", after - self.weights[0].get(name).copied().unwrap_or(0.0))
            })
            .collect();
        vec![
            format!(
                "loop      {requests} requests over HTTP, {liked} liked; {before:.3} before, {trained:.3} trained from the log ({}), {damaged:.3} when its \
                 file was damaged, {repaired:.3} after the repair ({})",
                status(0),
                status(1)
            ),
            format!("          trait weights: {}", moved.join(", ")),
        ]
    }
}

/// The options that the loop needs: training runs automatically only after a rollback, the gate
/// alone decides, and files are checked every second.
pub fn feedback_loop_options(mut options: NyxOptions, training: &TrainingOptions) -> NyxOptions {
    options.training = TrainingOptions {
        auto: true,
        min_evidence: usize::MAX,
        canary_share: 0.0,
        ..training.clone()
    };
    options.adapters.check_every_s = 1;
    options
}

/// A server on a free port of this machine, and a future that stops it.
pub struct Listening {
    pub base: String,
    pub stop: BoxFuture<'static, ()>,
}

/// A client of that server.
struct LocalServer {
    base: String,
    client: awc::Client,
}

impl LocalServer {
    fn answered(&self, path: &str, sent: Result<Value, String>) -> Result<Value, NyxError> {
        sent.map_err(|reason| NyxError::Internal(format!("{}{path}: {reason}", self.base)))
    }

    async fn get(&self, path: &str) -> Result<Value, NyxError> {
        let sent = async {
            let mut response = self
                .client
                .get(format!("{}{path}", self.base))
                .send()
                .await
                .map_err(|error| error.to_string())?;
            let status = response.status();
            let body: Value =
                response.json().limit(ANSWER_BYTES).await.map_err(|error| error.to_string())?;
            if status.is_success() { Ok(body) } else { Err(format!("{status}: {body}")) }
        };
        self.answered(path, sent.await)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, NyxError> {
        let sent = async {
            let request = self.client.post(format!("{}{path}", self.base));
            let mut response = request.send_json(body).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let body: Value =
                response.json().limit(ANSWER_BYTES).await.map_err(|error| error.to_string())?;
            if status.is_success() { Ok(body) } else { Err(format!("{status}: {body}")) }
        };
        self.answered(path, sent.await)
    }

    /// Sends a case; with `None` for `to` the master model routes. Returns the answer and whether
    /// it is correct.
    async fn ask(
        &self,
        case: &ChoiceCase,
        to: Option<&str>,
        seed: u64,
    ) -> Result<(Value, bool), NyxError> {
        let question = json!({
            "prompt": case.question, "context": case.context, "choices": case.choices, "specialist": to, "seed": seed,
            "deadline_ms": DEADLINE_MS,
        });
        let answered = self.post("/infer", &question).await?;
        let right =
            case.choices.get(case.answer).is_some_and(|right| answered["answer"] == right.as_str());
        Ok((answered, right))
    }

    async fn accuracy(
        &self,
        environment: &EvalEnvironment,
        what: &str,
        cases: &[ChoiceCase],
    ) -> Result<f64, NyxError> {
        let ask = |case: ChoiceCase| async move {
            Ok(self.ask(&case, Some(SPECIALIST), environment.seed).await?.1)
        };
        let right = environment.each(what, cases.to_vec(), ask).await?;
        Ok(right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64)
    }

    async fn weights(&self) -> Result<BTreeMap<String, f64>, NyxError> {
        let weights = self.get("/admin/traits").await?;
        serde_json::from_value(weights).map_err(|error| NyxError::Internal(error.to_string()))
    }

    /// Waits until the newest run is not `but` and has ended.
    async fn run_ended(&self, what: &str, but: Option<&Value>) -> Result<Value, NyxError> {
        let bar = bar(what, 1);
        let until = Instant::now() + PATIENCE;
        let path = format!("/admin/training?specialist={SPECIALIST}");
        let found = loop {
            let runs = self.get(&path).await?;
            let newest = runs["data"][0].clone();
            if !newest["ended_at"].is_null() && but.is_none_or(|but| but["id"] != newest["id"]) {
                break newest;
            }
            if Instant::now() > until {
                return Err(NyxError::Internal(format!(
                    "no training run ended in {} minutes: {runs}",
                    PATIENCE.as_secs() / 60
                )));
            }
            actix_rt::time::sleep(POLL).await;
        };
        bar.finish_and_clear();
        Ok(found)
    }

    /// Polls until answers no longer use the adapter.
    async fn fallen_back(
        &self,
        case: &ChoiceCase,
        adapter: &str,
        seed: u64,
    ) -> Result<(), NyxError> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let (answered, _) = self.ask(case, Some(SPECIALIST), seed).await?;
            if answered["adapter"]["id"] != adapter {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(NyxError::Internal(format!(
                    "a damaged adapter is still active after a minute: {adapter}"
                )));
            }
            actix_rt::time::sleep(POLL).await;
        }
    }
}

/// Sends `requests` requests with feedback, then runs the rest of the loop, all over HTTP to the
/// server that `serve` starts. The environment must have [`feedback_loop_options`].
///
/// # Errors
/// A request that failed, or a port that cannot be bound.
pub async fn run_feedback_loop(
    environment: &EvalEnvironment,
    dataset: &Dataset,
    requests: usize,
    serve: impl FnOnce(Nyx) -> std::io::Result<Listening>,
) -> Result<FeedbackLoopReport, EvalError> {
    let listening = serve(environment.nyx.clone())
        .map_err(|error| NyxError::Internal(format!("a server on this machine: {error}")))?;
    let server = LocalServer {
        base: listening.base,
        client: awc::Client::builder().disable_timeout().finish(),
    };
    let report = Box::pin(run(environment, &server, dataset, requests)).await;
    listening.stop.await;
    report
}

async fn run(
    environment: &EvalEnvironment,
    server: &LocalServer,
    dataset: &Dataset,
    requests: usize,
) -> Result<FeedbackLoopReport, EvalError> {
    let started = Instant::now();
    // questions that neither training nor the gate uses: dev, which has other templates
    let dev = Dataset { split: "dev".into(), ..dataset.clone() };
    let measured = environment.sample(dev.choices(SPECIALIST)?);
    let asked: Vec<ChoiceCase> =
        dataset.choices(SPECIALIST)?.into_iter().cycle().take(requests).collect();
    tracing::info!(requests, address = server.base, "the loop begins");
    let weights_before = server.weights().await?;
    let before = server.accuracy(environment, "loop: before", &measured).await?;
    let ask = |case: ChoiceCase| async move {
        // half of them are routed by the master model, whose trait weights change
        let to = Some(SPECIALIST)
            .filter(|_| case.id.as_bytes().first().is_some_and(|byte| byte % 2 == 1));
        let (answered, right) = server.ask(&case, to, environment.seed).await?;
        let verdict = json!({ "decision_id": answered["decision_id"], "thumbs": if right { "up" } else { "down" } });
        server.post("/v1/feedback", &verdict).await?;
        Ok(right)
    };
    let answers = environment.each("loop: asking", asked, ask).await?;
    let weights_after = server.weights().await?;
    server.post("/admin/training", &json!({ "specialist": SPECIALIST })).await?;
    let first = server.run_ended("loop: training", None).await?;
    let trained = server.accuracy(environment, "loop: trained", &measured).await?;
    let (mut damaged, mut repaired) = (trained, trained);
    let promoted =
        first["adapter"].as_str().filter(|_| first["status"] == "promoted").map(str::to_owned);
    let mut runs = vec![first];
    if let (Some(id), Some(case)) = (promoted, measured.first()) {
        damage(&environment.nyx.adapters.folder(&id))?;
        server.fallen_back(case, &id, environment.seed).await?;
        damaged = server.accuracy(environment, "loop: damaged", &measured).await?;
        runs.push(server.run_ended("loop: repairing", runs.first()).await?);
        repaired = server.accuracy(environment, "loop: repaired", &measured).await?;
    }
    Ok(FeedbackLoopReport {
        requests: answers.len(),
        liked: answers.iter().filter(|right| **right).count(),
        weights: [weights_before, weights_after],
        runs,
        before,
        trained,
        damaged,
        repaired,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Flips one bit in the middle of an adapter's weights file.
fn damage(folder: &std::path::Path) -> Result<(), EvalError> {
    let path = folder.join("adapter_model.safetensors");
    let broken = |error: std::io::Error| EvalError::Dataset {
        path: path.display().to_string(),
        reason: error.to_string(),
    };
    let mut bytes = std::fs::read(&path).map_err(broken)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&path, bytes).map_err(broken)
}

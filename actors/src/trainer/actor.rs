//! The trainer actor: observes rewards and starts training runs, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use nyx_domain::{Arm, CellEvent, CellStep, Decision};
use nyx_engine::train::Objective;
use nyx_specialists::gate::CanaryVerdict;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

use super::drift::{DriftAction, DriftMonitor, RewardSample};
use super::messages::{GetStatus, SpecialistStanding, TrainNow, TrainerStatus};
use super::options::TrainingOptions;
use super::service::TrainingService;
use crate::NyxError;
use crate::observe::ActorMetrics;
use crate::supervise::SEND_LIMIT;

/// The actor that observes rewards and trains from the log, one run at a time.
pub struct Trainer {
    service: TrainingService,
    options: TrainingOptions,
    metrics: Arc<ActorMetrics>,
    watches: BTreeMap<String, DriftMonitor>,
    /// Feedback entries of a specialist since its last run.
    fresh: BTreeMap<String, usize>,
    running: Option<String>,
    /// Specialists that fell back meanwhile, to be trained next.
    waiting: BTreeSet<String>,
}

/// A reward was recorded.
#[derive(Message)]
#[rtype(result = "()")]
struct Rewarded(Arc<CellEvent>);

/// The rewarded decision, read from the record.
#[derive(Message)]
#[rtype(result = "()")]
struct Looked {
    specialist: String,
    seen: RewardSample,
    /// It is new, not read from the record at the start.
    fresh: bool,
}

/// A decision's reward with its generation and canary arm.
fn seen(decision: &Decision, reward: f64) -> RewardSample {
    let canary = decision.trace.canary.as_ref();
    let of_canary =
        canary.and_then(|canary| Some((canary.canary_id()?.to_owned(), canary.arm == Arm::Canary)));
    let generation = decision.adapter.as_ref().map_or(0, |adapter| adapter.generation);
    RewardSample { generation, of_canary, reward, predicted: None }
}

/// A specialist fell back and is to be trained.
#[derive(Message)]
#[rtype(result = "()")]
struct FellBack {
    specialist: String,
}

/// A run has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct Ended;

impl Trainer {
    pub fn new(
        service: TrainingService,
        options: TrainingOptions,
        metrics: Arc<ActorMetrics>,
    ) -> Self {
        Self {
            service,
            options,
            metrics,
            watches: BTreeMap::new(),
            fresh: BTreeMap::new(),
            running: None,
            waiting: BTreeSet::new(),
        }
    }

    /// Begins a run from the log, unless one is in progress.
    fn begin(
        &mut self,
        specialist: &str,
        objective: Option<Objective>,
        context: &mut Context<Self>,
    ) -> Result<String, NyxError> {
        if let Some(other) = &self.running {
            return Err(NyxError::Conflict(format!("{other} is being trained: one at a time")));
        }
        self.running = Some(specialist.to_owned());
        self.fresh.insert(specialist.to_owned(), 0);
        let id = Uuid::now_v7().to_string();
        let (service, options, name, me) =
            (self.service.clone(), self.options.clone(), specialist.to_owned(), context.address());
        let run_id = id.clone();
        actix::spawn(async move {
            let done = match service.run_from_log(&name, objective, options).await {
                Ok(run) => service.train_as(&run_id, run).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(report) => tracing::info!(
                    specialist = name,
                    status = report.status.as_str(),
                    run = report.id,
                    "a training run ended"
                ),
                Err(error) => tracing::warn!(specialist = name, %error, "a training run failed"),
            }
            // a trainer that was restarted meanwhile has no run
            let _ = me.send(Ended).timeout(SEND_LIMIT).await;
        });
        Ok(id)
    }

    /// Begins a run for a specialist that fell back, or queues it. A specialist that is in training
    /// or has a canary needs none.
    fn begin_or_wait(&mut self, specialist: &str, context: &mut Context<Self>) {
        if self.running.as_deref() == Some(specialist)
            || self.service.adapters.active.has_canary(specialist)
        {
            return;
        }
        if let Err(error) = self.begin(specialist, None, context) {
            tracing::info!(specialist, %error, "trained next");
            self.waiting.insert(specialist.to_owned());
        }
    }

    /// Replays the recorded rewards of the active generations, so that a restart continues where
    /// the last instance was.
    fn replay(&self, context: &mut Context<Self>) {
        let (service, me) = (self.service.clone(), context.address());
        actix::spawn(async move {
            if let Err(error) = service.end_abandoned_runs().await {
                tracing::warn!(%error, "runs that were cut short stay on record as running");
            }
            let decisions_with_feedback = match service.decisions_with_feedback().await {
                Ok(decisions_with_feedback) => decisions_with_feedback,
                Err(error) => {
                    return tracing::warn!(%error, "the watch over rewards begins without the record");
                }
            };
            for (decision, feedback) in decisions_with_feedback {
                let specialist = decision.specialist.clone();
                let seen = seen(&decision, feedback.reward);
                let canary_now = service.adapters.active.canary(&specialist);
                let tried =
                    seen.of_canary.as_ref().is_some_and(|(id, _)| canary_now.as_ref() == Some(id));
                if tried || seen.generation == service.adapters.active_generation(&specialist).0 {
                    let looked = Looked {
                        specialist,
                        seen: RewardSample { of_canary: seen.of_canary.filter(|_| tried), ..seen },
                        fresh: false,
                    };
                    if me.send(looked).timeout(SEND_LIMIT).await.is_err() {
                        return;
                    }
                }
            }
        });
    }

    fn act(&mut self, specialist: &str, act: DriftAction, context: &mut Context<Self>) {
        let (service, name) = (self.service.clone(), specialist.to_owned());
        let auto = self.options.auto;
        let me = context.address();
        actix::spawn(async move {
            let done = match act {
                DriftAction::Canary { adapter, verdict, pairs, interval } => {
                    service
                        .end_canary(
                            &name,
                            &adapter,
                            verdict == CanaryVerdict::Better,
                            json!({ "pairs": pairs, "interval": interval }),
                        )
                        .await
                }
                // a late reward may belong to a generation that is no longer active
                DriftAction::FallBack { generation }
                    if service.adapters.active_generation(&name).0 != generation =>
                {
                    Ok(())
                }
                DriftAction::FallBack { generation } => {
                    let reason =
                        format!("rewards of generation {generation} fell below what was predicted");
                    let done = service.adapters.fall_back(&name, &reason).await.map(drop);
                    if auto && done.is_ok() {
                        // a trainer that was restarted meanwhile observes anew
                        let _ = me
                            .send(FellBack { specialist: name.clone() })
                            .timeout(SEND_LIMIT)
                            .await;
                    }
                    done
                }
            };
            if let Err(error) = done {
                tracing::warn!(specialist = name, %error, "the trainer could not act");
            }
        });
    }
}

impl Actor for Trainer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.replay(context);
        let (me, mut live) = (context.address(), self.service.cells.subscribe(None).live);
        actix::spawn(async move {
            loop {
                match live.recv().await {
                    Ok(event) => {
                        let wanted = matches!(
                            event.step,
                            CellStep::Rewarded { .. } | CellStep::AdapterBad { .. }
                        );
                        if wanted && me.send(Rewarded(event)).timeout(SEND_LIMIT).await.is_err() {
                            return;
                        }
                    }
                    // missed events are on record: drift is detected a little later
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }
}

impl Handler<Rewarded> for Trainer {
    type Result = ();

    fn handle(&mut self, Rewarded(event): Rewarded, context: &mut Self::Context) {
        let Some(specialist) = event.specialist.clone() else { return };
        match &event.step {
            CellStep::AdapterBad { .. } if self.options.auto => {
                // the adapters have fallen back already
                self.begin_or_wait(&specialist, context);
            }
            CellStep::Rewarded { reward, source, .. } if !source.starts_with("automatic") => {
                let Some(decision) = event.decision else { return };
                let (service, me, reward) = (self.service.clone(), context.address(), *reward);
                actix::spawn(async move {
                    match service.decision(decision).await {
                        Ok(decision) => {
                            let looked =
                                Looked { specialist, seen: seen(&decision, reward), fresh: true };
                            let _ = me.send(looked).timeout(SEND_LIMIT).await;
                        }
                        Err(error) => {
                            tracing::warn!(%decision, %error, "a rewarded decision could not be read")
                        }
                    }
                });
            }
            _ => {}
        }
    }
}

impl Handler<Looked> for Trainer {
    type Result = ();

    fn handle(&mut self, Looked { specialist, seen, fresh }: Looked, context: &mut Self::Context) {
        let options = self.options.clone();
        let act = self
            .watches
            .entry(specialist.clone())
            .or_insert_with(|| DriftMonitor::new(options))
            .push(&seen);
        if let Some(act) = act {
            self.act(&specialist, act, context);
        }
        if !fresh {
            return;
        }
        let count = self.fresh.entry(specialist.clone()).or_default();
        *count += 1;
        if self.options.auto
            && *count >= self.options.min_evidence
            && self.running.is_none()
            && !self.service.adapters.active.has_canary(&specialist)
        {
            // no other run is in progress, as checked above
            let _ = self.begin(&specialist, None, context);
        }
    }
}

impl Handler<TrainNow> for Trainer {
    type Result = Result<String, NyxError>;

    fn handle(&mut self, message: TrainNow, context: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        self.begin(&message.specialist, message.objective, context)
    }
}

impl Handler<Ended> for Trainer {
    type Result = ();

    fn handle(&mut self, _: Ended, context: &mut Self::Context) {
        self.running = None;
        if let Some(next) = self.waiting.pop_first() {
            self.begin_or_wait(&next, context);
        }
    }
}

impl Handler<FellBack> for Trainer {
    type Result = ();

    fn handle(&mut self, message: FellBack, context: &mut Self::Context) {
        self.begin_or_wait(&message.specialist, context);
    }
}

impl Handler<GetStatus> for Trainer {
    type Result = ResponseFuture<Result<TrainerStatus, NyxError>>;

    fn handle(&mut self, _: GetStatus, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let names = self.watches.keys().chain(self.fresh.keys()).cloned();
        let specialists = names
            .map(|name| {
                let (canary_pairs, alarm) =
                    self.watches.get(&name).map_or((None, 0.0), DriftMonitor::standing);
                let fresh_evidence = self.fresh.get(&name).copied().unwrap_or(0);
                (name, SpecialistStanding { fresh_evidence, canary_pairs, alarm })
            })
            .collect();
        let standing = TrainerStatus { training: self.running.clone(), specialists };
        Box::pin(async move { Ok(standing) })
    }
}

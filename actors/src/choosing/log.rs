//! The drawn decisions whose reward is known, without a running Nyx: for judging policies and learning the head.

use std::path::Path;

use nyx_engine::ModelFiles;
use nyx_engine::embed::Embedder;
use nyx_specialists::bandit::{LoggedChoice, OffPolicy, estimate, propensities};
use nyx_specialists::learn::{LearnedFile, TrainedOn};
use nyx_specialists::master::{LogReport, LoggedRouting, MasterHead, PROBE, Serving, fit_log};
use serde::Serialize;

use super::{Chooser, DrawnDecision, PolicySpec};
use crate::learned::{FOLDER, Learned, LearnedLoader};
use crate::memory::EmbeddingService;
use crate::nyx::{blocking, candle_device};
use crate::options::MasterOptions;
use crate::orchestrator::read_by_master;
use crate::phoebe::PhoebeStore;
use crate::verdict::{REQUEST, Verdict};
use crate::{Decision, NyxError, NyxOptions, StartError};

/// Texts embedded in one message.
const EMBEDDED_AT_ONCE: usize = 64;

/// A decision, as it may be chosen again.
struct Row {
    id: String,
    specialist: String,
    /// The head that decided, and what it said.
    head: Option<String>,
    heads: Vec<f64>,
    routing: LoggedRouting,
}

/// The log, with today's head and weights.
pub struct ChoosingLog {
    names: Vec<String>,
    weights: Vec<f64>,
    head: Option<Learned<MasterHead>>,
    embedding: EmbeddingService,
    /// Whether the rows have embeddings.
    embedded: bool,
    rows: Vec<Row>,
    options: MasterOptions,
    learned: LearnedLoader,
    data_dir: std::path::PathBuf,
}

/// What a policy is worth by the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyReport {
    pub policy: String,
    #[serde(flatten)]
    pub estimates: OffPolicy,
}

/// A head that was learned from the log.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadLesson {
    /// The file's text.
    pub file: String,
    pub report: LogReport,
}

impl ChoosingLog {
    /// Reads the log of `options`' database; loads the embedder, and no model.
    ///
    /// # Errors
    /// Phoebe does not answer, or the embedder or a learned part cannot be used.
    pub async fn open(options: &NyxOptions) -> Result<Self, StartError> {
        let store = PhoebeStore::connect(&options.phoebe, &options.data_dir).await?;
        let names: Vec<String> = options.specialists.iter().map(|policy| policy.name.clone()).collect();
        let judged = store.judged().await?;
        let weights = store.trait_weights(&names).await?;
        store.close().await;
        let weights = names.iter().map(|name| weights.get(name).copied().unwrap_or(0.0)).collect();
        let base = options.base_model.clone();
        let sha256 =
            blocking(move || ModelFiles::open(&base).map(|files| files.info().sha256.clone())).await?.map_err(StartError::Model)?;
        let learned = LearnedLoader::new(&options.data_dir, &sha256);
        let head = if options.master.head { learned.load()? } else { None };
        let (folder, queue) = (options.embedder.clone(), options.memory.queue);
        let embedding = blocking(move || EmbeddingService::start(Embedder::load(&folder, &candle_device())?, queue)).await?;
        let deadline_ms = options.requests.default_deadline_ms;
        let rows = judged.iter().filter_map(|(decision, verdict)| row(decision, verdict, &names, deadline_ms)).collect();
        Ok(Self {
            names,
            weights,
            head,
            embedding: embedding.map_err(StartError::Embedder)?,
            embedded: false,
            rows,
            options: options.master.clone(),
            learned,
            data_dir: options.data_dir.clone(),
        })
    }

    /// Decisions on the log.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What `policy`, told as `spec`, would earn a decision.
    ///
    /// # Errors
    /// There is no such specialist or file, or the log has nothing that the policy would have done.
    pub async fn evaluate(&mut self, policy: &str, spec: &PolicySpec) -> Result<PolicyReport, StartError> {
        let target = self.target(spec).await?;
        let choices: Vec<LoggedChoice> = self.rows.iter().map(|row| row.routing.choice).collect();
        let estimates = estimate(&choices, &target).ok_or_else(|| {
            NyxError::Conflict(format!(
                "there are {} drawn decisions with an outcome or feedback, expected at least 2, among them some that {policy:?} might have made",
                choices.len()
            ))
        })?;
        Ok(PolicyReport { policy: policy.to_owned(), estimates })
    }

    async fn target(&mut self, spec: &PolicySpec) -> Result<Vec<Vec<f64>>, StartError> {
        let count = self.names.len();
        let head = match &spec.chooser {
            Chooser::Uniform => return Ok(vec![vec![1.0 / count as f64; count]; self.rows.len()]),
            Chooser::Specialist(name) => {
                let unknown = || NyxError::UnknownSpecialist { name: name.clone(), known: self.names.join(", ") };
                let at = self.names.iter().position(|known| known == name).ok_or_else(unknown)?;
                let always = (0..count).map(|index| if index == at { 1.0 } else { 0.0 }).collect();
                return Ok(vec![always; self.rows.len()]);
            }
            Chooser::Best | Chooser::Current => self.head.clone(),
            Chooser::Head(path) => Some(self.learned.read::<MasterHead>(path)?),
        };
        let weights = if spec.weights { self.weights.clone() } else { vec![0.0; count] };
        let id = head.as_ref().map(|head| head.id.clone());
        // what this head said then, it says again
        if head.is_some() && self.rows.iter().any(|row| row.head != id) {
            self.embed(head.as_ref()).await?;
        }
        let temperature = spec.temperature.unwrap_or(self.options.temperature);
        let epsilon = spec.epsilon.unwrap_or(self.options.epsilon);
        let serving = Serving { names: &self.names, weights: &weights, temperature, epsilon };
        let head = head.as_ref().map(|head| &head.value);
        let share = |row: &Row| {
            let logits = if row.head == id {
                row.heads.iter().zip(&weights).map(|(head, weight)| head + weight).collect()
            } else {
                serving.logits(head, &row.routing)
            };
            if spec.chooser == Chooser::Best {
                let best = nyx_specialists::bandit::best(&logits);
                return (0..count).map(|index| if Some(index) == best { 1.0 } else { 0.0 }).collect();
            }
            propensities(&logits, temperature, epsilon)
        };
        Ok(self.rows.iter().map(share).collect())
    }

    /// Learns the head anew from the log; [`install`](Self::install) puts it to use where its report passes.
    ///
    /// # Errors
    /// There is no present head to begin with, or there are too few decisions.
    pub async fn learn_head(&mut self) -> Result<HeadLesson, StartError> {
        let missing = || NyxError::Conflict("there is no head to begin with: set master.head, or run `nyx train master` on trials".into());
        let present = self.head.clone().ok_or_else(missing)?;
        self.embed(Some(&present)).await?;
        let (names, weights, log) =
            (self.names.clone(), self.weights.clone(), self.rows.iter().map(|row| row.routing.clone()).collect::<Vec<_>>());
        let (temperature, epsilon) = (self.options.temperature, self.options.epsilon);
        let fitted = blocking(move || {
            let serving = Serving { names: &names, weights: &weights, temperature, epsilon };
            fit_log(&present.value, &serving, &log)
        });
        let (head, report) = fitted.await?.map_err(NyxError::Conflict)?;
        let trained_on = TrainedOn::of(self.rows.iter().map(|row| (row.specialist.as_str(), row.id.as_str())));
        let file = LearnedFile::new(trained_on, None, head).write().map_err(|error| NyxError::Internal(error.to_string()))?;
        Ok(HeadLesson { file, report })
    }

    /// Puts a head into the data folder's `learned`, by one rename: Nyx reads it when it starts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn install(&self, file: &str, folder: Option<&Path>) -> std::io::Result<std::path::PathBuf> {
        let folder = folder.map_or_else(|| self.data_dir.join(FOLDER), Path::to_owned);
        std::fs::create_dir_all(&folder)?;
        let mut written = tempfile::NamedTempFile::new_in(&folder)?;
        std::io::Write::write_all(&mut written, file.as_bytes())?;
        written.as_file().sync_all()?;
        let path = folder.join("master.json");
        written.persist(&path)?;
        Ok(path)
    }

    async fn embed(&mut self, head: Option<&Learned<MasterHead>>) -> Result<(), StartError> {
        let probe = self.embedding.embed(vec![PROBE.to_owned()]).await?.vectors;
        let known = |head: &Learned<MasterHead>| probe.first().is_some_and(|probe| head.value.knows_embedder(probe));
        if !head.is_none_or(known) {
            let message = "the head was learned with another embedder: learn it again with `nyx train master`".to_owned();
            return Err(NyxError::Conflict(message).into());
        }
        if self.embedded {
            return Ok(());
        }
        for batch in self.rows.chunks_mut(EMBEDDED_AT_ONCE) {
            let texts = batch.iter().map(|row| row.routing.question.clone()).collect();
            let vectors = self.embedding.embed(texts).await?.vectors;
            batch.iter_mut().zip(vectors).for_each(|(row, vector)| row.routing.embedding = vector);
        }
        self.embedded = true;
        Ok(())
    }
}

/// A drawn decision with the verdict that counts; `None` where nobody was drawn, or one who is no more.
fn row(decision: &Decision, verdict: &Verdict, names: &[String], deadline_ms: u64) -> Option<Row> {
    let drawn = DrawnDecision::of(decision)?;
    let place = |name: &str| names.iter().position(|known| known == name);
    let of = |values: &[f64], name: &String| {
        let at = drawn.names.iter().position(|drawn| drawn == name);
        at.and_then(|at| values.get(at)).copied().unwrap_or(f64::NEG_INFINITY)
    };
    let choice = LoggedChoice {
        kind: place(&drawn.kind).unwrap_or(names.len()),
        chosen: place(&decision.specialist)?,
        propensity: drawn.propensity * drawn.generation_propensity,
        common: drawn.generation_propensity,
        reward: verdict.reward,
    };
    let deadline_ms = decision.notes.get(REQUEST).and_then(|note| note.get("deadline_ms")?.as_u64()).unwrap_or(deadline_ms);
    let routing = LoggedRouting {
        question: read_by_master(&decision.question).to_owned(),
        embedding: Vec::new(),
        now: decision.given.now.unwrap_or(decision.asked_at),
        deadline_ms,
        scores: names.iter().map(|name| decision.scores.get(name).copied().unwrap_or(0.0)).collect(),
        choice,
    };
    let heads = names.iter().map(|name| of(&drawn.heads, name)).collect();
    Some(Row { id: decision.id.to_string(), specialist: decision.specialist.clone(), head: decision.head.clone(), heads, routing })
}

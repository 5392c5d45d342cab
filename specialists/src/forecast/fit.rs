//! Learning a [`Forecaster`] from questions that have been resolved.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDate;

use super::features::features;
use super::{Asked, FEATURES_BUT_EMBEDDING, Forecaster, Opinions, Pool, SUREST, YES};
use crate::learn::metrics::brier;
use crate::learn::{Example, LinearModel};

/// Strengths of the penalty that are tried, strongest first; cross-validation chooses.
const PENALTIES: [f64; 5] = [0.064, 0.032, 0.016, 0.008, 0.004];
const FOLDS: usize = 5;
/// How much of a label is the prior's: a market's probability is a less noisy label than what then happened once.
const PRIOR_SHARE: f64 = 0.5;
/// Of the pools' weights: as good as none, and still one answer.
const POOL_PENALTY: f64 = 1e-3;
/// Examples that a pool is learned from at least.
const LEAST: usize = 50;
/// Characters of a context that tell one event from another.
const EVENT_CHARS: usize = 200;

/// A question that has been resolved.
#[derive(Debug, Clone)]
pub struct ForecastExample {
    pub question: String,
    /// Empty when there is none.
    pub context: String,
    /// When it was asked.
    pub asked: NaiveDate,
    /// The question's unit vector.
    pub embedding: Vec<f32>,
    pub prior: Option<f64>,
    /// The language model's likelihood of `Yes` beside `No`, with the context and without the prior.
    pub choice: Option<f64>,
    /// What its sampled answers stated, if any were sampled.
    pub chains: Vec<f64>,
    pub happened: bool,
}

/// What was learned, and how good it was on what it was not learned from.
#[derive(Debug, Clone)]
pub struct ForecastFit {
    pub forecaster: Forecaster,
    /// The penalty chosen.
    pub penalty: f64,
    /// Brier scores over the folds: `base` of the base rate, `prior` of the priors alone, and of each pool by its name.
    pub brier: BTreeMap<String, f64>,
    /// Groups of questions about one event, which folds keep together.
    pub groups: usize,
}

/// Learns from `examples`; `None` below 50, without both outcomes, or with embeddings of different sizes.
///
/// Folds keep questions of one event or one template together; the penalty and the pools' weights are chosen from what the folds' models say of questions
/// that they did not see. The model that is kept is learned from all.
pub fn fit(examples: &[ForecastExample]) -> Option<ForecastFit> {
    let happened = examples.iter().filter(|example| example.happened).count();
    let dimension = examples.first()?.embedding.len();
    if examples.len() < LEAST
        || happened == 0
        || happened == examples.len()
        || examples.iter().any(|example| example.embedding.len() != dimension)
    {
        return None;
    }
    let read: Vec<Vec<(u32, f32)>> = examples.iter().map(|example| features(&example.asked())).collect();
    let groups = groups(examples);
    let folds: Vec<usize> = groups.iter().map(|group| group % FOLDS).collect();
    let train = |penalty: f64, keep: &dyn Fn(usize) -> bool| {
        let labelled = examples.iter().zip(&read).enumerate().filter(|(at, _)| keep(*at)).flat_map(|(_, (example, read))| {
            let yes = f64::from(u8::from(example.happened));
            let target = example.prior.map_or(yes, |prior| PRIOR_SHARE * prior + (1.0 - PRIOR_SHARE) * yes);
            [(YES, target), (1 - YES, 1.0 - target)].map(|(class, weight)| Example { features: read.clone(), class, weight })
        });
        let labelled: Vec<Example> = labelled.filter(|example| example.weight > 0.0).collect();
        LinearModel::fit(&labelled, 2, FEATURES_BUT_EMBEDDING + dimension, penalty)
    };
    let say = |model: &LinearModel, at: usize| model.probabilities(&read[at])[YES].clamp(1.0 - SUREST, SUREST);
    let outcome = |at: usize| examples[at].happened;
    let score =
        |said: &[f64]| brier(&said.iter().enumerate().map(|(at, p)| (*p, outcome(at))).collect::<Vec<_>>()).unwrap_or(f64::INFINITY);

    let mut best: Option<(f64, f64, Vec<f64>)> = None;
    for penalty in PENALTIES {
        let models: Vec<LinearModel> = (0..FOLDS).map(|fold| train(penalty, &|at| folds[at] != fold)).collect();
        let said: Vec<f64> = folds.iter().enumerate().map(|(at, &fold)| say(&models[fold], at)).collect();
        let found = score(&said);
        if best.as_ref().is_none_or(|(least, ..)| found < *least) {
            best = Some((found, penalty, said));
        }
    }
    let (_, penalty, unseen) = best?;

    let opinions: Vec<Opinions> = examples
        .iter()
        .zip(&unseen)
        .map(|(example, &learned)| Opinions {
            prior: example.prior,
            learned: Some(learned),
            choice: example.choice,
            chains: example.chains.clone(),
        })
        .collect();
    let base_rate = happened as f64 / examples.len() as f64;
    let rate_without = |fold: usize| {
        let others = || (0..examples.len()).filter(|at| folds[*at] != fold);
        others().filter(|at| outcome(*at)).count() as f64 / others().count().max(1) as f64
    };
    let mut scores = BTreeMap::from([("base".to_owned(), score(&folds.iter().map(|fold| rate_without(*fold)).collect::<Vec<_>>()))]);
    let priors: Vec<(f64, bool)> = examples.iter().filter_map(|example| Some((example.prior?, example.happened))).collect();
    scores.extend(brier(&priors).map(|brier| ("prior".to_owned(), brier)));
    let mut pools = BTreeMap::new();
    for mask in 0..8_u8 {
        let masked: Vec<(usize, Opinions)> =
            opinions.iter().cloned().enumerate().filter_map(|(at, all)| Some((at, some_of(all, mask)?))).collect();
        let Some(name) = masked.first().map(|(_, opinions)| opinions.names()) else { continue };
        let pool_of = |keep: &dyn Fn(usize) -> bool| {
            let kept: Vec<(Opinions, bool)> =
                masked.iter().filter(|(at, _)| keep(*at)).map(|(at, opinions)| (opinions.clone(), outcome(*at))).collect();
            fit_pool(&kept)
        };
        if masked.len() < LEAST {
            continue;
        }
        let Some(pool) = pool_of(&|_| true) else { continue };
        let by_fold: Vec<Option<Pool>> = (0..FOLDS).map(|fold| pool_of(&|at| folds[at] != fold)).collect();
        let said = masked.iter().filter_map(|(at, opinions)| Some((by_fold[folds[*at]].as_ref()?.probability(opinions), outcome(*at))));
        scores.extend(brier(&said.collect::<Vec<_>>()).map(|brier| (name.clone(), brier)));
        pools.insert(name, pool.rounded());
    }
    // the language model counts where questions that were not seen were forecast better with it than without
    for dropped in ["chains", "choice"] {
        let without = |name: &str| name.split('+').filter(|opinion| *opinion != dropped).collect::<Vec<_>>().join("+");
        pools.retain(|name, _| without(name) == *name || scores.get(name) < scores.get(&without(name)));
    }
    let forecaster =
        Forecaster { base_rate: (base_rate * 1e6).round() / 1e6, dimension, model: train(penalty, &|_| true).rounded(4), pools };
    Some(ForecastFit { forecaster, penalty, brier: scores, groups: groups.iter().max().map_or(0, |last| last + 1) })
}

impl ForecastExample {
    fn asked(&self) -> Asked<'_> {
        Asked { question: &self.question, context: &self.context, on: self.asked, embedding: &self.embedding }
    }
}

/// The learned opinion and those that the mask names (prior 1, choice 2, chains 4); `None` where one of them is missing.
fn some_of(all: Opinions, mask: u8) -> Option<Opinions> {
    let mut kept = Opinions { learned: all.learned, ..Opinions::default() };
    if mask & 1 != 0 {
        kept.prior = Some(all.prior?);
    }
    if mask & 2 != 0 {
        kept.choice = Some(all.choice?);
    }
    if mask & 4 != 0 {
        kept.chains = Some(all.chains).filter(|chains| !chains.is_empty())?;
    }
    Some(kept)
}

/// The weights of the highest likelihood among those not below 0: an opinion that would count against itself is left out.
fn fit_pool(examples: &[(Opinions, bool)]) -> Option<Pool> {
    let names: Vec<&str> = examples.first()?.0.log_odds().map(|(name, _)| name).collect();
    let mut left: Vec<usize> = (0..names.len()).collect();
    loop {
        let rows = examples.iter().map(|(opinions, happened)| {
            let values: Vec<f64> = opinions.log_odds().map(|(_, value)| value).collect();
            let features = (0..).zip(&left).map(|(at, index)| (at, values.get(*index).copied().unwrap_or(0.0) as f32)).collect();
            Example { features, class: if *happened { YES } else { 1 - YES }, weight: 1.0 }
        });
        let model = LinearModel::fit(&rows.collect::<Vec<_>>(), 2, left.len(), POOL_PENALTY);
        let at = |features: &[(u32, f32)]| {
            let logits = model.logits(features);
            logits[YES] - logits[1 - YES]
        };
        let offset = at(&[]);
        let weights: Vec<f64> = (0..left.len() as u32).map(|feature| at(&[(feature, 1.0)]) - offset).collect();
        let worst = weights.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).filter(|(_, weight)| **weight < 0.0);
        if let Some((worst, _)) = worst {
            left.remove(worst);
            continue;
        }
        let weight = |index: usize| left.iter().position(|kept| *kept == index).map_or(0.0, |at| weights[at]);
        let named: Vec<(&str, f64)> = names.iter().enumerate().map(|(index, name)| (*name, weight(index))).collect();
        return Some(Pool::of_weights(&named, offset));
    }
}

/// Which event each question is about, numbered from 0: questions with the same beginning of a context, or the same words around their names and
/// numbers, are about one.
fn groups(examples: &[ForecastExample]) -> Vec<usize> {
    let mut parent: Vec<usize> = (0..examples.len()).collect();
    fn root(parent: &mut [usize], mut at: usize) -> usize {
        while parent[at] != at {
            parent[at] = parent[parent[at]];
            at = parent[at];
        }
        at
    }
    let mut seen: HashMap<(bool, String), usize> = HashMap::new();
    for (at, example) in examples.iter().enumerate() {
        let event: String = example.context.chars().take(EVENT_CHARS).filter(|c| !c.is_ascii_digit()).collect();
        for key in [(false, event), (true, template(&example.question))] {
            if key.1.is_empty() {
                continue;
            }
            let other = *seen.entry(key).or_insert(at);
            let (this, other) = (root(&mut parent, at), root(&mut parent, other));
            parent[this.max(other)] = this.min(other);
        }
    }
    let mut numbers = HashMap::new();
    (0..examples.len())
        .map(|at| {
            let next = numbers.len();
            *numbers.entry(root(&mut parent, at)).or_insert(next)
        })
        .collect()
}

/// The question with each run of names as `@` and each number as `#`.
fn template(question: &str) -> String {
    let mut kept: Vec<String> = Vec::new();
    for (at, word) in question.split_whitespace().enumerate() {
        if at > 0 && word.starts_with(char::is_uppercase) {
            if kept.last().is_none_or(|last| last != "@") {
                kept.push("@".into());
            }
        } else {
            kept.push(word.chars().map(|c| if c.is_ascii_digit() { '#' } else { c.to_ascii_lowercase() }).collect());
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::LearnedPart;
    use crate::seeded::Seeded;

    /// Questions whose wording tells a part, and whose prior tells more: the truth is drawn from log-odds that add up.
    fn questions(count: usize) -> Vec<ForecastExample> {
        let mut random = Seeded::new();
        (0..count)
            .map(|at| {
                let rare = random.unit() < 0.5;
                let (wording, knowledge) = (if rare { -1.5 } else { 1.0 }, 3.0 * (random.unit() - 0.5));
                let happened = random.unit() < sigmoid(wording + knowledge);
                let name: String = (0..8).map(|_| random.pick(&["ka", "lo", "mi", "re"])).collect();
                let (question, on) = if rare { ("win the cup", 1) } else { ("stay in office", 2) };
                ForecastExample {
                    question: format!("Will {name}{at} {question}?"),
                    context: format!("{name} {at:b}"),
                    asked: NaiveDate::from_ymd_opt(2026, on, 1).unwrap(),
                    embedding: vec![0.6, 0.8],
                    // half of what the prior should be: the factor must undo it
                    prior: Some(sigmoid(0.5 * (wording + knowledge))),
                    choice: Some(random.unit()),
                    chains: Vec::new(),
                    happened,
                }
            })
            .collect()
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    #[test]
    fn it_learns_what_wording_and_priors_tell_and_that_noise_tells_nothing() {
        let found = fit(&questions(600)).unwrap();
        let (brier, pools) = (&found.brier, &found.forecaster.pools);
        // the margins are several standard errors of what 600 drawn questions show
        assert!(brier["learned"] < brier["base"] - 0.015, "{brier:?}");
        assert!(brier["prior+learned"] < brier["prior"] && brier["prior+learned"] < brier["learned"], "{brier:?}");
        let pool = &pools["prior+learned"];
        assert!(pool.factor * pool.shares["prior"] > 1.2, "the factor undoes timid priors: {pool:?}");
        let with_noise = pools.get("prior+learned+choice");
        assert!(with_noise.is_none_or(|pool| pool.shares["choice"] < 0.15), "{pools:?}");
        assert!(!pools.contains_key("learned+chains"), "nobody sampled any");
        found.forecaster.check().unwrap();
    }

    #[test]
    fn the_same_examples_give_the_same_parameters() {
        let examples = questions(60);
        assert_eq!(fit(&examples).map(|found| found.forecaster), fit(&examples).map(|found| found.forecaster));
    }

    #[test]
    fn without_enough_to_learn_from_nothing_is_learned() {
        assert!(fit(&questions(49)).is_none());
        let mut one_sided = questions(60);
        one_sided.iter_mut().for_each(|example| example.happened = true);
        assert!(fit(&one_sided).is_none());
        let mut uneven = questions(60);
        uneven[3].embedding.pop();
        assert!(fit(&uneven).is_none());
        assert!(fit(&[]).is_none());
    }

    #[test]
    fn questions_of_one_event_stay_together() {
        let of = |question: &str, context: &str| ForecastExample {
            question: question.into(),
            context: context.into(),
            embedding: vec![],
            asked: NaiveDate::from_ymd_opt(2026, 1, 1).unwrap(),
            prior: None,
            choice: None,
            chains: vec![],
            happened: true,
        };
        let found = groups(&[
            of("Will Ada Lovelace win the race?", ""),
            of("Will Bob win the race?", "On 3 May."),
            of("How many?", "On 14 May."),
            of("Will it rain?", ""),
            of("Will it snow?", ""),
        ]);
        assert_eq!(found, [0, 0, 0, 1, 2]);
    }
}

//! Forecasting: beside the answer's own words, the language model's likelihood of Yes, further sampled chains, a learned model of the question and the
//! caller's prior, pooled into one probability.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use nyx_engine::SamplingParams;
use nyx_specialists::forecast::{Asked, Forecast, Forecaster, Opinions, asks_whether, yes_of};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::fairness::tell;
use super::{Delivery, Prompt, STOPPED, Screened, SpecialistParts, Spoken};
use crate::learned::Learned;
use crate::memory::messages::Embed;
use crate::question::{Question, StreamEvent, ending};
use crate::{NyxError, RequestContext};

/// The part's name in a decision's notes.
pub(super) const NOTE: &str = "forecast";
/// With less time than this, no chains are sampled beside the answer.
const CHAINS_TAKE: Duration = Duration::from_secs(10);
/// Events of an answer that may wait to be passed on; one that does not fit cancels the answer.
const EVENTS: usize = 1024;

/// A question that is answered in words and by a forecast.
pub(super) struct Telling<'a> {
    pub question: &'a Question,
    pub asked: &'a str,
    pub deadline_ms: u64,
    pub forecaster: &'a Learned<Forecaster>,
}

impl SpecialistParts {
    /// The forecaster, where this specialist forecasts and the question can be answered by Yes or No.
    pub(super) fn forecasting(&self, question: &Question, asked: &str) -> Option<Arc<Learned<Forecaster>>> {
        let forecasts = self.policy.as_ref().is_some_and(|policy| policy.forecasts());
        let fits = match &question.choices {
            Some(choices) => yes_of(choices).is_some(),
            None => question.given.prior.is_some() || asks_whether(asked),
        };
        self.forecaster.clone().filter(|_| forecasts && fits)
    }

    /// Makes a forecast of the likelihoods that were found for the choices Yes and No.
    pub(super) async fn forecast_choice(
        &self,
        context: &RequestContext,
        question: &Question,
        asked: &str,
        forecaster: &Learned<Forecaster>,
        spoken: &mut Spoken,
    ) {
        let choices = question.choices.as_deref().unwrap_or_default();
        let (Some(yes), Some(found)) = (yes_of(choices), spoken.choice_probabilities.as_deref()) else { return };
        let choice = found.get(yes).copied();
        let learned = self.learned(context, question, asked, forecaster).await;
        let opinions = Opinions { prior: question.given.prior, learned, choice, chains: Vec::new() };
        let forecast = forecaster.value.forecast(opinions);
        let p = forecast.probability;
        let answer = if (p >= 0.5) == (yes == 0) { 0 } else { 1 };
        spoken.choice_probabilities = Some(if yes == 0 { vec![p, 1.0 - p] } else { vec![1.0 - p, p] });
        if let (Some(said), Some(text)) = (spoken.answers.first_mut(), choices.get(answer)) {
            said.text.clone_from(text);
        }
        spoken.forecast(&forecast, forecaster);
    }

    /// Answers in words, and ends them with the forecast.
    pub(super) async fn foretell(
        self: &Arc<Self>,
        context: &RequestContext,
        prompt: Prompt,
        telling: &Telling<'_>,
        sampling: SamplingParams,
        screened: &Screened,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<Spoken, NyxError> {
        let Telling { question, asked, forecaster, .. } = *telling;
        let wanted = question.n;
        let samples = self.policy.as_ref().map_or(1, |policy| policy.samples);
        let chains = if context.remaining() < CHAINS_TAKE { wanted } else { wanted.max(samples) };
        let sampled = Question { n: chains, ..question.clone() };
        let (inner, passing) = match &events {
            Some(outer) if chains > wanted => {
                let (inner, receiver) = mpsc::channel(EVENTS);
                (Some(inner), Some(pass_on(receiver, outer.clone(), wanted)))
            }
            events => (events.clone(), None),
        };
        let delivery = Delivery { screened, events: inner, open_end: true };
        let generating = self.generate(context, prompt, &sampled, sampling.clone(), delivery);
        let passing = async {
            if let Some(passing) = passing {
                passing.await;
            }
        };
        // a second prompt, and only where it counts
        let likelihood = async {
            if !forecaster.value.reads_language_model() {
                return None;
            }
            let likelihood = self.likelihood_of_yes(context, telling, sampling).await;
            likelihood.inspect_err(|error| tracing::debug!(%error, "a forecast without the likelihood of Yes")).ok()
        };
        let learned = self.learned(context, question, asked, forecaster);
        let (spoken, (), choice, learned) = tokio::join!(generating, passing, likelihood, learned);
        let mut spoken = spoken?;
        let stated = spoken.answers.iter().filter_map(|answer| nyx_specialists::read_probability(&answer.text));
        let opinions = Opinions { prior: question.given.prior, learned, choice, chains: stated.collect() };
        let forecast = forecaster.value.forecast(opinions);
        spoken.answers.truncate(wanted);
        let last = last_words(&forecast);
        for (index, answer) in spoken.answers.iter_mut().enumerate() {
            // one that screening stopped, or nobody waits for, ends as it is
            if !["cancelled", STOPPED].contains(&answer.finish_reason.as_str()) {
                answer.text.push_str(&last);
                tell(events.as_ref(), StreamEvent::Token { index, text: last.clone(), logprobs: Vec::new() });
            }
            tell(events.as_ref(), StreamEvent::Finished { index, finish_reason: answer.finish_reason.clone() });
        }
        spoken.forecast(&forecast, forecaster);
        Ok(spoken)
    }

    /// The learned model's opinion; `None` where the question cannot be embedded now.
    async fn learned(&self, context: &RequestContext, question: &Question, asked: &str, forecaster: &Learned<Forecaster>) -> Option<f64> {
        let embed = Embed { context: context.clone(), texts: vec![ending(asked, super::QUERY_CHARS).to_owned()] };
        let embedded = context.bound("the question was embedded", self.memory.send(embed)).await;
        let embedded = embedded.inspect_err(|error| tracing::debug!(%error, "a forecast without the learned model")).ok()?;
        let background = question.given.context.as_deref().unwrap_or_default();
        let on = question.now().date_naive();
        forecaster.value.learned(&Asked { question: asked, context: background, on, embedding: embedded.vectors.first()? })
    }

    /// How likely the language model finds Yes beside No.
    async fn likelihood_of_yes(
        self: &Arc<Self>,
        context: &RequestContext,
        telling: &Telling<'_>,
        sampling: SamplingParams,
    ) -> Result<f64, NyxError> {
        let texts: Vec<String> = vec!["Yes".into(), "No".into()];
        let question = Question { choices: Some(texts.clone()), ..telling.question.clone() };
        let written = self.write_apart(context, &Arc::new(question), Vec::new(), None, telling.deadline_ms).await?;
        let weighed = self.choose(context, written.prompt, &texts, written.choices, sampling).await?;
        let yes = weighed.choice_probabilities.as_deref().and_then(|found| found.first().copied());
        yes.ok_or_else(|| NyxError::Internal("no likelihood of Yes".into()))
    }
}

impl Spoken {
    fn forecast(&mut self, forecast: &Forecast, forecaster: &Learned<Forecaster>) {
        self.probability = Some(forecast.probability);
        let mut note = serde_json::to_value(forecast).unwrap_or(Value::Null);
        if let Value::Object(note) = &mut note {
            note.insert("learned_id".into(), json!(forecaster.id));
        }
        self.notes.insert(NOTE.into(), note);
    }
}

/// Passes the events of the first `wanted` answers on and leaves out those of the chains beside them.
async fn pass_on(mut from: mpsc::Receiver<StreamEvent>, to: mpsc::Sender<StreamEvent>, wanted: usize) {
    loop {
        let event = tokio::select! {
            event = from.recv() => event,
            // a reader who left is noticed between the words too
            () = to.closed() => None,
        };
        match event {
            None => return,
            Some(StreamEvent::Token { index, .. } | StreamEvent::Finished { index, .. }) if index >= wanted => {}
            Some(event) => {
                if to.try_send(event).is_err() {
                    return;
                }
            }
        }
    }
}

/// What an answer ends with: the opinions that counted, and the probability on record, such that it is read out of the text again.
fn last_words(forecast: &Forecast) -> String {
    let Forecast { opinions, pool, probability } = forecast;
    let mut counted = Vec::new();
    for (name, value) in [("prior", opinions.prior), ("learned", opinions.learned), ("choice", opinions.choice)] {
        let said = match name {
            "prior" => "the prior says",
            "learned" => "such questions end with Yes in",
            _ => "my own inclination is",
        };
        if let Some(value) = value.filter(|_| pool.shares.get(name).is_some_and(|share| *share > 0.0)) {
            counted.push(format!("{said} {:.1} %", value * 100.0));
        }
    }
    let mut words = String::from("\n\n");
    if !counted.is_empty() {
        // writing to a string cannot fail
        let _ = writeln!(words, "Weighed together ({}):", counted.join(", "));
    }
    let _ = write!(words, "Probability: {:.1}%", probability * 100.0);
    words
}

#[cfg(test)]
mod tests {
    use nyx_specialists::forecast::SHIPPED_FORECASTER;
    use nyx_specialists::learn::LearnedFile;
    use nyx_specialists::read_probability;

    use super::*;

    fn forecast(prior: Option<f64>, learned: Option<f64>) -> Forecast {
        let forecaster = LearnedFile::<Forecaster>::parse(SHIPPED_FORECASTER).unwrap().parameters;
        forecaster.forecast(Opinions { prior, learned, ..Opinions::default() })
    }

    #[test]
    fn the_last_words_state_what_is_on_record() {
        for step in 0..=50 {
            let p = f64::from(step) / 50.0;
            for forecast in [forecast(Some(p), Some(0.3)), forecast(None, Some(p)), forecast(Some(p), None), forecast(None, None)] {
                for said in ["", "I doubt it. Probability: 95%", "A 30% chance, then 7 in 10."] {
                    let answer = format!("{said}{}", last_words(&forecast));
                    let read = read_probability(&answer).unwrap();
                    assert!((read - forecast.probability).abs() <= 0.000_51, "{answer} is read as {read}");
                }
            }
        }
        assert!(last_words(&forecast(Some(0.25), Some(0.3))).contains("the prior says 25.0 %"));
    }

    #[actix::test]
    async fn only_the_answers_that_were_asked_for_are_passed_on() {
        let (inner, from) = mpsc::channel(16);
        let (to, mut outer) = mpsc::channel(16);
        let token = |index: usize| StreamEvent::Token { index, text: "a".into(), logprobs: Vec::new() };
        for index in [0, 2, 1, 3] {
            inner.try_send(token(index)).unwrap();
        }
        drop(inner);
        pass_on(from, to, 2).await;
        assert_eq!((outer.recv().await, outer.recv().await, outer.recv().await), (Some(token(0)), Some(token(1)), None));

        // a reader who has left ends it, so that the device notices
        let (inner, from) = mpsc::channel(16);
        let (to, outer) = mpsc::channel(16);
        drop(outer);
        pass_on(from, to, 1).await;
        assert!(inner.is_closed());
    }
}

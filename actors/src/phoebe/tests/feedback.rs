//! Outcomes and feedback, with the same results on both databases.

use nyx_domain::{
    DecisionName, ErrorClass, FeedbackInput, FeedbackKind, OutcomeInput, RequestInputs,
};
use nyx_specialists::{BUILTIN, SpecialistPolicy};
use serde_json::json;

use super::*;
use crate::RewardOptions;
use crate::feedback::NewFeedback;
use crate::feedback::scoring::{feedback, outcome};
use crate::phoebe::messages::ListOpenForecasts;

/// The number of decisions that [`keeps_verdicts`] records.
pub const DECISIONS: usize = 3;

pub fn moira() -> SpecialistPolicy {
    BUILTIN
        .iter()
        .find_map(|(name, toml)| {
            name.contains("moira").then(|| SpecialistPolicy::parse(name, toml).unwrap())
        })
        .unwrap()
}

fn forecast(question: &str, probability: f64, external_key: Option<&str>) -> Decision {
    let inputs = RequestInputs {
        external_key: external_key.map(str::to_owned),
        now: Some(now()),
        ..RequestInputs::default()
    };
    let probabilities = Some(vec![probability, 1.0 - probability]);
    let choices = Some(vec!["Yes".into(), "No".into()]);
    let plain = decision("moira", question, "Yes");
    Decision {
        inputs,
        probability: Some(probability),
        choices,
        choice_probabilities: probabilities,
        activation: None,
        ..plain
    }
}

fn reported(decision: &Decision, what: OutcomeInput, key: Option<&str>) -> NewFeedback {
    outcome(decision, Some(&moira()), &RewardOptions::default(), &what, key.map(str::to_owned))
        .unwrap()
}

pub async fn keeps_verdicts(store: &PhoebeStore) {
    let daily = [
        forecast("Will it snow?", 0.9, Some("snow")),
        forecast("Will it snow?", 0.5, Some("snow")),
    ];
    let lone = forecast("Will it hail by 3 May?", 0.2, None);
    for decision in daily.iter().chain([&lone]) {
        store.record(&record(decision, None)).await.unwrap();
    }
    let open = |open| ListOpenForecasts { open, before: None, limit: 3 };
    let ids = |open_forecasts: Vec<nyx_domain::OpenForecast>| {
        open_forecasts.iter().map(|promise| promise.decision.id).collect::<Vec<_>>()
    };
    assert_eq!(
        ids(store.open_forecasts(open(Some(true))).await.unwrap()),
        [lone.id, daily[1].id, daily[0].id]
    );

    // two forecasts share one external key: both are resolved
    let named = store.named(DecisionName::External("snow".into())).await.unwrap();
    assert_eq!(named, daily);
    let happened = |key| {
        named
            .iter()
            .map(|decision| reported(decision, OutcomeInput::Happened(true), Some(key)))
            .collect::<Vec<_>>()
    };
    let judged = store.record_feedback(happened("k-1"), None).await.unwrap();
    let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
    assert!(judged.iter().all(|judged| judged.new && judged.feedback.revision == 1));
    assert!(
        near(judged[0].reward, 0.98)
            && near(judged[1].reward, 0.5)
            && near(judged[0].activation.unwrap(), 0.99),
        "{judged:?}"
    );
    assert_eq!(ids(store.open_forecasts(open(Some(true))).await.unwrap())[0], lone.id);
    assert_eq!(
        ids(store.open_forecasts(open(Some(false))).await.unwrap()),
        [daily[1].id, daily[0].id]
    );

    // sent again, under the same key or another one, it is recorded once
    for key in ["k-1", "k-2"] {
        let again = store.record_feedback(happened(key), None).await.unwrap();
        assert!(
            again
                .iter()
                .zip(&judged)
                .all(|(again, first)| !again.new && again.feedback == first.feedback),
            "{again:?}"
        );
    }
    let error = store
        .record_feedback(
            vec![reported(&daily[0], OutcomeInput::Happened(false), Some("k-1"))],
            None,
        )
        .await
        .unwrap_err();
    assert!(
        error.class() == ErrorClass::Conflict && error.to_string().contains("\"k-1\""),
        "{error}"
    );
    let error = store
        .record_feedback(vec![reported(&lone, OutcomeInput::Happened(true), Some("k-1"))], None)
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict, "{error}");

    // a different value amends: the reward follows the last entry, and both entries are kept
    let amended = store
        .record_feedback(vec![reported(&daily[0], OutcomeInput::Choice("No".into()), None)], None)
        .await
        .unwrap()
        .remove(0);
    assert!(
        amended.new && amended.feedback.revision == 2 && near(amended.reward, -0.62),
        "{amended:?}"
    );
    let kept = store.feedback_of(daily[0].id).await.unwrap();
    assert_eq!(
        kept.iter().map(|feedback| (feedback.value, feedback.revision)).collect::<Vec<_>>(),
        [(1.0, 1), (0.0, 2)]
    );
    assert_eq!((&kept[0].input, &kept[1].input), (&json!(true), &json!("No")));
    let stored = store.decision(daily[0].id).await.unwrap();
    assert!(near(stored.reward, -0.62) && near(stored.activation.unwrap(), 0.19), "{stored:?}");

    // feedback is kept in addition to the outcome
    let said = FeedbackInput {
        value: 0.25,
        comment: Some("hm".into()),
        correction: Some("It will not.".into()),
        input: json!({"value": 0.25}),
    };
    let said = feedback(&stored, Some(&moira()), &RewardOptions::default(), said, None).unwrap();
    let judged = store.record_feedback(vec![said], None).await.unwrap().remove(0);
    assert!(
        near(judged.reward, -0.37)
            && judged.feedback.kind == FeedbackKind::Feedback
            && judged.activation == stored.activation,
        "{judged:?}"
    );
    assert_eq!(
        store.feedback_of(daily[0].id).await.unwrap()[2].correction.as_deref(),
        Some("It will not.")
    );

    // eight concurrent, different outcomes: all are kept in some order, and the last one is in
    // effect
    let tellers = (1..=8).map(|share| {
        let (store, feedback) =
            (store.clone(), reported(&lone, OutcomeInput::Number(f64::from(share) / 8.0), None));
        tokio::spawn(async move { store.record_feedback(vec![feedback], None).await.unwrap() })
    });
    for teller in tellers.collect::<Vec<_>>() {
        assert!(teller.await.unwrap()[0].new);
    }
    let kept = store.feedback_of(lone.id).await.unwrap();
    let mut revisions: Vec<u64> = kept.iter().map(|feedback| feedback.revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=8).collect::<Vec<_>>());
    let last = kept.iter().max_by_key(|feedback| feedback.revision).unwrap();
    assert!(near(store.decision(lone.id).await.unwrap().reward, last.reward));

    for (name, what) in [
        (DecisionName::Id(Uuid::nil()), "decision"),
        (DecisionName::External("hail".into()), "external key"),
    ] {
        let error = store.named(name).await.unwrap_err();
        assert!(
            error.class() == ErrorClass::NotFound && error.to_string().contains(what),
            "{error}"
        );
    }
}

/// The number of decisions that [`hears_each_key_once`] records.
pub const KEYED: usize = 3;

/// Feedback under a key is recorded once, even if it changed nothing when it was first sent.
pub async fn hears_each_key_once(stores: &[PhoebeStore]) {
    let store = &stores[0];
    let [lone, one, other] =
        [None, Some("twins"), Some("twins")].map(|name| forecast("Will it thaw?", 0.75, name));
    for decision in [&lone, &one, &other] {
        store.record(&record(decision, None)).await.unwrap();
    }
    let said = |decision: &Decision, value: f64, key: &str| {
        let input =
            FeedbackInput { value, input: json!({ "value": value }), ..FeedbackInput::default() };
        feedback(decision, None, &RewardOptions::default(), input, Some(key.to_owned())).unwrap()
    };
    let tell = async |value: f64, key: &str| {
        store
            .record_feedback(vec![said(&lone, value, key)], None)
            .await
            .map(|mut judged| judged.remove(0))
    };
    let up = tell(1.0, "up-1").await.unwrap();
    let again = tell(1.0, "up-2").await.unwrap();
    assert!(up.new && !again.new && again.feedback == up.feedback, "{again:?}");
    let down = tell(-1.0, "down-3").await.unwrap();
    assert!(down.new && down.feedback.revision == 2, "{down:?}");
    for key in ["up-2", "up-1", "up-2"] {
        let repeat = tell(1.0, key).await.unwrap();
        assert!(
            !repeat.new && repeat.feedback == up.feedback && repeat.reward == down.reward,
            "{key}: {repeat:?}"
        );
    }
    assert_eq!(store.feedback_of(lone.id).await.unwrap().len(), 2);
    assert_eq!(store.decision(lone.id).await.unwrap().reward, down.reward);
    // refused: different feedback, or another decision, under a key whose feedback changed nothing
    for refused in [said(&lone, -1.0, "up-2"), said(&one, 1.0, "up-2")] {
        let error = store.record_feedback(vec![refused], None).await.unwrap_err();
        assert!(
            error.class() == ErrorClass::Conflict && error.to_string().contains("\"up-2\""),
            "{error}"
        );
    }

    // one outcome for two decisions that share an external key
    let both = |outcome, key| {
        [&one, &other]
            .map(|decision| reported(decision, OutcomeInput::Happened(outcome), Some(key)))
            .to_vec()
    };
    for (outcome, key, new) in [
        (true, "t-1", true),
        (true, "t-2", false),
        (false, "t-3", true),
        (true, "t-2", false),
        (false, "t-3", false),
    ] {
        let judged = store.record_feedback(both(outcome, key), None).await.unwrap();
        assert!(judged.iter().all(|judged| judged.new == new), "{key}: {judged:?}");
    }
    assert_eq!(store.feedback_of(other.id).await.unwrap().last().unwrap().value, 0.0);

    // sent concurrently by several processes, each key is recorded once, and one of two
    // contradicting values is refused
    let at_once = |values: [f64; 8], key: &'static str| {
        let tellers = values.into_iter().zip(stores.iter().cycle()).map(|(value, store)| {
            let (store, feedback) = (store.clone(), said(&lone, value, key));
            tokio::spawn(async move { store.record_feedback(vec![feedback], None).await })
        });
        futures_util::future::try_join_all(tellers.collect::<Vec<_>>())
    };
    // equal to the feedback in effect
    assert!(
        at_once([-1.0; 8], "down-4")
            .await
            .unwrap()
            .into_iter()
            .all(|judged| !judged.unwrap()[0].new)
    );
    let news = at_once([0.5; 8], "half")
        .await
        .unwrap()
        .into_iter()
        .filter(|judged| judged.as_ref().unwrap()[0].new)
        .count();
    assert_eq!(news, 1);
    let torn = at_once([0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0], "torn").await.unwrap();
    assert_eq!(torn.iter().filter(|judged| judged.is_err()).count(), 4, "{torn:?}");
}

#[test]
fn an_outcome_must_be_one_that_it_can_have() {
    let refused = |decision: &Decision, what| {
        outcome(decision, None, &RewardOptions::default(), &what, None).unwrap_err().to_string()
    };
    let yes_or_no = forecast("Will it rain?", 0.5, None);
    assert!(refused(&yes_or_no, OutcomeInput::Number(1.5)).contains("outcome is 1.5"));
    assert!(refused(&yes_or_no, OutcomeInput::Choice("Maybe".into())).contains("\"Yes\""));
    let open = Decision { choices: None, choice_probabilities: None, ..yes_or_no.clone() };
    assert!(refused(&open, OutcomeInput::Choice("Yes".into())).contains("true, false"));
    let several = Decision {
        probability: None,
        choices: Some(vec!["a".into(), "b".into()]),
        ..yes_or_no.clone()
    };
    assert!(refused(&several, OutcomeInput::Happened(true)).contains("its index"));
    assert!(refused(&several, OutcomeInput::Number(2.0)).contains("outcome is 2"));
    assert_eq!(
        outcome(&several, None, &RewardOptions::default(), &OutcomeInput::Number(1.0), None)
            .unwrap()
            .value,
        1.0
    );
    let talk = Decision { choice_probabilities: None, ..several };
    assert!(refused(&talk, OutcomeInput::Happened(true)).contains("no forecast"));
    let too_good = FeedbackInput { value: 1.5, ..FeedbackInput::default() };
    assert!(
        feedback(&talk, None, &RewardOptions::default(), too_good, None)
            .unwrap_err()
            .to_string()
            .contains("value is 1.5")
    );
    let nul = FeedbackInput { correction: Some("\0".into()), ..FeedbackInput::default() };
    assert!(
        feedback(&talk, None, &RewardOptions::default(), nul, None)
            .unwrap_err()
            .to_string()
            .contains("correction")
    );
    assert!(
        feedback(
            &talk,
            None,
            &RewardOptions::default(),
            FeedbackInput::default(),
            Some(" ".into())
        )
        .unwrap_err()
        .to_string()
        .contains("key")
    );
}

//! Feedback that updates trait weights, with the same results on both databases, recorded by
//! several processes concurrently.

use nyx_domain::FeedbackInput;
use nyx_specialists::bandit::BanditSettings;
use serde_json::json;

use super::*;
use crate::RewardOptions;
use crate::feedback::NewFeedback;
use crate::feedback::scoring::feedback;
use crate::phoebe::messages::ListTraitWeightChanges;

/// The number of decisions that [`moves_trait_weights_once`] records.
pub const DECISIONS: usize = TELLERS + 1;
const TELLERS: usize = 8;
pub const LEARNING: BanditSettings =
    BanditSettings { learning_rate: 0.3, decay: 0.01, max_weight: 5.0, temperature: 0.5 };

fn rated(decision: &Decision, value: f64, weights: &RewardOptions) -> NewFeedback {
    feedback(
        decision,
        None,
        weights,
        FeedbackInput { value, input: json!(value), ..FeedbackInput::default() },
        None,
    )
    .unwrap()
}

/// A decision sampled from two candidates with equal logits.
fn drawn(question: &str) -> Decision {
    let both =
        |value: f64| BTreeMap::from([("kairos".to_owned(), value), ("other".to_owned(), value)]);
    let plain = decision("kairos", question, "No.");
    Decision {
        logits: both(0.0),
        trait_weights: both(0.0),
        propensities: both(0.5),
        propensity: 0.5,
        ..plain
    }
}

pub async fn moves_trait_weights_once(stores: &[PhoebeStore]) {
    let store = &stores[0];
    let names = ["kairos".to_owned(), "other".to_owned()];
    let uncalibrated = RewardOptions { calibration: 0.0 };
    let decisions: Vec<Decision> =
        (0..TELLERS).map(|index| drawn(&format!("Is it late? {index}"))).collect();
    for decision in &decisions {
        store.record(&record(decision, None)).await.unwrap();
    }
    // every process records feedback on every decision: one entry per decision is new
    let tellers = decisions
        .iter()
        .flat_map(|decision| stores.iter().map(move |store| (store.clone(), decision.clone())));
    let input = tellers.map(|(store, decision)| {
        tokio::spawn(async move {
            store
                .record_feedback(
                    vec![rated(&decision, 1.0, &RewardOptions::default())],
                    Some(LEARNING),
                )
                .await
                .unwrap()
        })
    });
    let mut moved = 0;
    for input in input.collect::<Vec<_>>() {
        let input = input.await.unwrap().remove(0);
        assert_eq!(input.weights.len(), if input.new { 2 } else { 0 }, "{input:?}");
        moved += usize::from(input.new);
    }
    assert_eq!(moved, TELLERS);
    let history = |name: &str| ListTraitWeightChanges { name: name.into(), limit: 100 };
    let rows = store.trait_weight_changes(history("kairos")).await.unwrap();
    assert_eq!(rows.len(), TELLERS);
    assert!(
        rows.windows(2).all(|pair| pair[0].from.total_cmp(&pair[1].to).is_eq()),
        "each follows the one before: {rows:?}"
    );
    assert!(
        rows.iter().all(|row| row.reward == Some(1.0)
            && row.reason == "feedback"
            && row.to > row.from * 0.99),
        "{rows:?}"
    );
    let weights = store.trait_weights(&names).await.unwrap();
    assert!(weights["kairos"] > 0.1 && weights["other"] < 0.0, "{weights:?}");
    assert_eq!(count(store, "nyx_reward_baselines").await, 1);

    // a stated confidence that was wrong reduces the reward, recorded in its own row
    let sure = Decision { confidence: Some(0.75), ..drawn("Is it early?") };
    store.record(&record(&sure, None)).await.unwrap();
    let judged = store
        .record_feedback(vec![rated(&sure, -0.5, &RewardOptions::default())], None)
        .await
        .unwrap()
        .remove(0);
    assert!(
        (judged.reward + 0.5 + 0.5625).abs() < 1e-12 && judged.weights.is_empty(),
        "{judged:?}"
    );
    let rules =
        "SELECT count(*) AS n FROM nyx_rewards WHERE rule = 'calibration' AND value = -0.5625";
    let backend = store.connection().get_database_backend();
    let row =
        store.connection().query_one_raw(Statement::from_string(backend, rules)).await.unwrap();
    assert_eq!(row.unwrap().try_get::<i64>("", "n").unwrap(), 1);

    // an amendment updates the weights by the difference, and a failed transaction changes nothing
    let amended = store
        .record_feedback(vec![rated(&decisions[0], -1.0, &uncalibrated)], Some(LEARNING))
        .await
        .unwrap()
        .remove(0);
    assert_eq!(amended.weights[0].reward, Some(-2.0), "{amended:?}");
    assert!(amended.weights[0].to < weights["kairos"]);
    let unknown =
        NewFeedback { decision: Uuid::now_v7(), ..rated(&decisions[1], -1.0, &uncalibrated) };
    assert!(
        store
            .record_feedback(
                vec![rated(&decisions[1], -1.0, &uncalibrated), unknown],
                Some(LEARNING)
            )
            .await
            .is_err()
    );
    assert_eq!(store.trait_weight_changes(history("kairos")).await.unwrap().len(), TELLERS + 1);

    // no specialist was sampled: no weights change
    let own = Decision {
        propensities: BTreeMap::new(),
        logits: BTreeMap::new(),
        propensity: 1.0,
        ..decisions[2].clone()
    };
    assert_eq!(crate::routing::DrawnDecision::of(&own), None);
}

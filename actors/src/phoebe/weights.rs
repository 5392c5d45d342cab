//! Trait weights: their history, and how feedback entries update them.

use std::collections::BTreeMap;

use nyx_domain::TraitWeightChange;
use nyx_specialists::bandit::{BanditSettings, Baseline, BaselineKey, Learner};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect, SqlErr,
};
use uuid::Uuid;

use super::entities::{baseline, trait_weight};
use super::limit::check_limit;
use super::messages::{ListTraitWeightChanges, StoreTraitWeight};
use super::store::{PhoebeStore, now};
use crate::NyxError;
use crate::feedback::NewFeedback;
use crate::routing::DrawnDecision;

/// Attempts to store a trait weight when another process updates it in between.
const WEIGHT_TRIES: usize = 50;
/// PostgreSQL advisory lock, shared by all Nyx processes, held while weights are updated.
const WEIGHTS_LOCK: i64 = 0x6e79_7877_6569;

impl PhoebeStore {
    /// The current weight of each of these names; names without one are omitted.
    pub(crate) async fn trait_weights(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, f64>, NyxError> {
        let mut weights = BTreeMap::new();
        for name in names {
            if let Some(row) = newest(&self.reader, name).await? {
                weights.insert(row.name, row.to_weight);
            }
        }
        Ok(weights)
    }

    /// A name's history, newest first.
    pub(super) async fn trait_weight_changes(
        &self,
        query: ListTraitWeightChanges,
    ) -> Result<Vec<TraitWeightChange>, NyxError> {
        check_limit(query.limit)?;
        super::storable("name", &query.name)?;
        let changes = trait_weight::Entity::find()
            .filter(trait_weight::Column::Name.eq(&query.name))
            .order_by_desc(trait_weight::Column::Revision)
            .limit(query.limit);
        Ok(changes
            .all(&self.reader)
            .await?
            .into_iter()
            .map(TraitWeightChange::try_from)
            .collect::<Result<_, _>>()?)
    }

    /// Appends to the history. Two processes cannot add the same revision: the loser reads again
    /// and adds the next one.
    pub(super) async fn store_trait_weight(
        &self,
        change: StoreTraitWeight,
    ) -> Result<TraitWeightChange, NyxError> {
        for _ in 0..WEIGHT_TRIES {
            let transaction = self.begin().await?;
            let row = following(newest(&transaction, &change.name).await?, change.clone());
            match row.clone().into_active_model().insert(&transaction).await {
                Ok(_) => {
                    transaction.commit().await?;
                    return Ok(row.try_into()?);
                }
                Err(error)
                    if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
                {
                    transaction.rollback().await
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(NyxError::Internal(format!(
            "other processes changed the weight of {} {WEIGHT_TRIES} times meanwhile",
            change.name
        )))
    }
}

async fn newest(
    on: &impl ConnectionTrait,
    name: &str,
) -> Result<Option<trait_weight::Model>, DbErr> {
    let history = trait_weight::Entity::find().filter(trait_weight::Column::Name.eq(name));
    history.order_by_desc(trait_weight::Column::Revision).one(on).await
}

fn following(newest: Option<trait_weight::Model>, change: StoreTraitWeight) -> trait_weight::Model {
    trait_weight::Model {
        id: Uuid::now_v7().to_string(),
        from_weight: newest.as_ref().map_or(0.0, |row| row.to_weight),
        revision: newest.map_or(1, |row| row.revision + 1),
        name: change.name,
        to_weight: change.to,
        reason: change.reason,
        reward: change.reward,
        decision: change.decision.map(|id| id.to_string()),
        at: now(),
    }
}

/// Keeps other processes from updating weights until the transaction ends. SQLite has a single
/// writer, so it needs no lock.
pub(super) async fn lock(on: &impl ConnectionTrait) -> Result<(), DbErr> {
    if on.get_database_backend() == DbBackend::Postgres {
        on.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({WEIGHTS_LOCK})")).await?;
    }
    Ok(())
}

/// Updates the weights of a decision's candidates for a feedback entry, in the same transaction
/// that records the entry. `before` is the reward of the entry that it amends. If the specialist
/// was not sampled, nothing changes.
pub(super) async fn update_trait_weight(
    on: &impl ConnectionTrait,
    settings: BanditSettings,
    drawn: Option<&DrawnDecision>,
    input: &NewFeedback,
    before: Option<f64>,
) -> Result<Vec<TraitWeightChange>, DbErr> {
    let Some(drawn) = drawn else { return Ok(Vec::new()) };
    let mut rows = Vec::with_capacity(drawn.names.len());
    let mut learner = Learner::new(settings, 0);
    for name in &drawn.names {
        let row = newest(on, name).await?;
        learner.weights.push(row.as_ref().map_or(0.0, |row| row.to_weight));
        rows.push(row);
    }
    for baseline::Model { source, kind, count, sum } in baseline::Entity::find().all(on).await? {
        learner.baselines.insert(BaselineKey { source, kind }, Baseline { count, sum });
    }
    let key = BaselineKey { source: input.kind.as_str().to_owned(), kind: drawn.kind.clone() };
    let (reward, reason) = match before {
        // entries recorded before baselines existed changed no weights, so there is nothing to undo
        Some(before) if learner.baselines.contains_key(&key) => {
            learner.amend(&key, &drawn.drawn(), input.reward - before);
            (input.reward - before, format!("{}: amendment", input.kind.as_str()))
        }
        _ => {
            learner.reward(&key, &drawn.drawn(), input.reward);
            (input.reward, input.kind.as_str().to_owned())
        }
    };
    let kept = learner.baselines.into_iter();
    let kept = kept.map(|(key, value)| baseline::Model {
        source: key.source,
        kind: key.kind,
        count: value.count,
        sum: value.sum,
    });
    let mut replace = OnConflict::columns([baseline::Column::Source, baseline::Column::Kind]);
    replace.update_columns([baseline::Column::Count, baseline::Column::Sum]);
    baseline::Entity::insert_many(kept.map(IntoActiveModel::into_active_model))
        .on_conflict(replace)
        .exec_without_returning(on)
        .await?;
    let mut changes = Vec::new();
    for ((name, row), to) in drawn.names.iter().zip(rows).zip(learner.weights) {
        let from = row.as_ref().map_or(0.0, |row| row.to_weight);
        // bitwise equal: unchanged
        if from.total_cmp(&to).is_eq() {
            continue;
        }
        let decision = Some(input.decision);
        let row = following(
            row,
            StoreTraitWeight {
                name: name.clone(),
                to,
                reason: reason.clone(),
                reward: Some(reward),
                decision,
            },
        );
        trait_weight::Entity::insert(row.clone().into_active_model())
            .exec_without_returning(on)
            .await?;
        changes.push(row.try_into()?);
    }
    Ok(changes)
}

//! Feedback entries on decisions, and the rewards derived from them.

use nyx_domain::{
    Decision, DecisionName, Feedback, FeedbackKind, FeedbackResult, OpenForecast, Status,
    TraitWeightChange,
};
use nyx_specialists::bandit::BanditSettings;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect, SqlErr, Statement,
};
use uuid::Uuid;

use super::entities::{decision, feedback, feedback_key, reward};
use super::limit::check_limit;
use super::messages::ListOpenForecasts;
use super::store::{PhoebeStore, now};
use super::weights;
use crate::NyxError;
use crate::feedback::NewFeedback;
use crate::routing::DrawnDecision;

/// Attempts to record a feedback entry when another process writes to the same decision in between.
const TRIES: usize = 20;
/// Maximum number of decisions read per external key.
const MOST_NAMED: u64 = 1000;

/// Maximum number of ids bound to one statement.
const KEYS_AT_ONCE: usize = 500;
/// Seed of the hash that maps a feedback key to a PostgreSQL advisory lock.
const KEYS_LOCK: i64 = 0x6e79_786b_6579;

/// Rule name of the calibration reward, computed from the decision's stated confidence.
const CALIBRATION: &str = "calibration";
/// Rule name of the reward that holds the difference between an amendment and the entry it amends.
const AMENDMENT: &str = "amendment";

impl PhoebeStore {
    /// The decisions with this id or external key, oldest first.
    ///
    /// # Errors
    /// [`NyxError::NotFound`] if no decision matches.
    pub(super) async fn named(&self, name: DecisionName) -> Result<Vec<Decision>, NyxError> {
        let key = match name {
            DecisionName::Id(id) => return Ok(vec![self.decision(id).await?]),
            DecisionName::External(key) => key,
        };
        super::storable_name("external_key", &key)?;
        // failed attempts carry the key too, but have no answer to give feedback on
        let answered = [Status::Answered.as_str(), Status::Partial.as_str()];
        let named = decision::Entity::find()
            .filter(decision::Column::ExternalKey.eq(&key))
            .filter(decision::Column::Status.is_in(answered));
        let rows =
            named.order_by_asc(decision::Column::Id).limit(MOST_NAMED).all(&self.reader).await?;
        if rows.is_empty() {
            return Err(NyxError::NotFound { what: "decision with the external key", id: key });
        }
        Ok(rows.into_iter().map(Decision::try_from).collect::<Result<_, _>>()?)
    }

    /// Records feedback entries and their rewards in one transaction: all or none. An entry equal
    /// to the one in effect changes nothing; a different entry amends it, and the decision's reward
    /// changes by the difference. With `learning`, the same transaction updates the trait weights.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] if different feedback was recorded under the same key.
    pub(super) async fn record_feedback(
        &self,
        entries: Vec<NewFeedback>,
        learning: Option<BanditSettings>,
    ) -> Result<Vec<FeedbackResult>, NyxError> {
        for _ in 0..TRIES {
            let transaction = self.begin().await?;
            match record_all(&transaction, &entries, learning).await {
                Ok(judged) => {
                    transaction.commit().await?;
                    return Ok(judged);
                }
                Err(error) => {
                    transaction.rollback().await;
                    match &error {
                        NyxError::Database(lost) if is_race(lost) => {}
                        _ => return Err(error),
                    }
                }
            }
        }
        Err(NyxError::Internal(format!(
            "other processes changed the decision {TRIES} times meanwhile"
        )))
    }

    /// All feedback entries on a decision, in the order in which they were recorded.
    pub(super) async fn feedback_of(&self, decision: Uuid) -> Result<Vec<Feedback>, NyxError> {
        let input =
            feedback::Entity::find().filter(feedback::Column::Decision.eq(decision.to_string()));
        let rows = input.order_by_asc(feedback::Column::Id).all(&self.reader).await?;
        Ok(rows.into_iter().map(Feedback::try_from).collect::<Result<_, _>>()?)
    }

    /// Forecasts, newest first.
    pub(super) async fn open_forecasts(
        &self,
        query: ListOpenForecasts,
    ) -> Result<Vec<OpenForecast>, NyxError> {
        check_limit(query.limit)?;
        let resolved = Query::select()
            .expr(Expr::val(1))
            .from(feedback::Entity)
            .and_where(
                Expr::col((feedback::Entity, feedback::Column::Decision))
                    .equals((decision::Entity, decision::Column::Id)),
            )
            .and_where(feedback::Column::Kind.eq(FeedbackKind::Outcome.as_str()))
            .take();
        let mut select = decision::Entity::find()
            .filter(decision::Column::Probability.is_not_null())
            .filter(
                Condition::any()
                    .add(decision::Column::Status.eq("answered"))
                    .add(decision::Column::Status.eq("partial")),
            )
            .order_by_desc(decision::Column::Id)
            .limit(query.limit);
        if let Some(before) = query.before {
            select = select.filter(decision::Column::Id.lt(before.to_string()));
        }
        select = match query.open {
            Some(true) => select.filter(Expr::exists(resolved).not()),
            Some(false) => select.filter(Expr::exists(resolved)),
            None => select,
        };
        let rows = select.all(&self.reader).await?;
        let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        let input = feedback::Entity::find()
            .filter(feedback::Column::Kind.eq(FeedbackKind::Outcome.as_str()))
            .filter(feedback::Column::Decision.is_in(ids))
            // the last outcome of a decision overwrites earlier ones
            .order_by_asc(feedback::Column::Revision)
            .all(&self.reader)
            .await?;
        let mut counts = std::collections::HashMap::new();
        for row in input {
            counts.insert(row.decision.clone(), Feedback::try_from(row)?);
        }
        let promised = rows.into_iter().map(|row| {
            let outcome = counts.remove(&row.id);
            Ok(OpenForecast { decision: Decision::try_from(row)?, outcome })
        });
        Ok(promised.collect::<Result<_, DbErr>>()?)
    }
}

/// Whether a statement lost a race against another process: both added the same revision, or SQLite
/// reported that the database is locked.
fn is_race(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
        || error.to_string().contains("database is locked")
}

async fn record_all(
    on: &impl ConnectionTrait,
    entries: &[NewFeedback],
    learning: Option<BanditSettings>,
) -> Result<Vec<FeedbackResult>, NyxError> {
    if learning.is_some() {
        // taken before any row is written: two transactions that wait for each other's rows would
        // deadlock
        weights::lock(on).await?;
    }
    if let Some(NewFeedback { kind, key: Some(key), .. }) = entries.first() {
        for known in recorded_under(on, *kind, key).await? {
            if !entries
                .iter()
                .any(|input| input.decision == known.decision && input.repeats(&known))
            {
                return Err(NyxError::Conflict(format!(
                    "key {key:?} already recorded {} for decision {}: expected the same value, or another key for an amendment",
                    known.input, known.decision
                )));
            }
        }
    }
    let mut judged = Vec::with_capacity(entries.len());
    for input in entries {
        judged.push(record_one(on, input, learning).await?);
    }
    Ok(judged)
}

/// All feedback recorded under a key: the entries it created, and the entries it repeated while
/// they were in effect.
async fn recorded_under(
    on: &impl ConnectionTrait,
    kind: FeedbackKind,
    key: &str,
) -> Result<Vec<Feedback>, DbErr> {
    if on.get_database_backend() == DbBackend::Postgres {
        // serialises transactions that use the same key: the second one sees the first one's rows
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, $2))";
        let values = [format!("{} {key}", kind.as_str()).into(), KEYS_LOCK.into()];
        on.query_one_raw(Statement::from_sql_and_values(DbBackend::Postgres, lock, values)).await?;
    }
    let by_key = feedback::Entity::find()
        .filter(feedback::Column::Kind.eq(kind.as_str()))
        .filter(feedback::Column::Key.eq(key));
    let mut rows = by_key.all(on).await?;
    let again = feedback_key::Entity::find()
        .filter(feedback_key::Column::Kind.eq(kind.as_str()))
        .filter(feedback_key::Column::Key.eq(key));
    let again: Vec<String> = again.all(on).await?.into_iter().map(|row| row.feedback).collect();
    for ids in again.chunks(KEYS_AT_ONCE) {
        rows.extend(
            feedback::Entity::find().filter(feedback::Column::Id.is_in(ids)).all(on).await?,
        );
    }
    rows.into_iter().map(Feedback::try_from).collect()
}

/// The id of the entry on this decision that the key repeated, if any.
async fn repeated_under(
    on: &impl ConnectionTrait,
    input: &NewFeedback,
    decision: &str,
) -> Result<Option<String>, DbErr> {
    let Some(key) = &input.key else { return Ok(None) };
    let row = feedback_key::Entity::find_by_id((
        input.kind.as_str().to_owned(),
        key.clone(),
        decision.to_owned(),
    ))
    .one(on)
    .await?;
    Ok(row.map(|row| row.feedback))
}

/// Inserts an entry after the one in effect (`earlier`), with its rewards.
async fn insert(
    on: &impl ConnectionTrait,
    input: &NewFeedback,
    id: &str,
    earlier: Option<&Feedback>,
    revision: i64,
) -> Result<Feedback, NyxError> {
    let row = feedback::Model {
        id: Uuid::now_v7().to_string(),
        decision: id.to_owned(),
        kind: input.kind.as_str().to_owned(),
        key: input.key.clone(),
        value: input.value,
        input: input.input.clone(),
        reward: input.reward,
        comment: input.comment.clone(),
        correction: input.correction.clone(),
        revision,
        at: now(),
    };
    feedback::Entity::insert(row.clone().into_active_model()).exec_without_returning(on).await?;
    let change = input.reward - earlier.map_or(0.0, |before| before.reward);
    for (value, rule) in match earlier {
        Some(_) => [Some((change, AMENDMENT)), None],
        None => [
            Some((change - input.calibration.unwrap_or(0.0), input.rule())),
            input.calibration.map(|value| (value, CALIBRATION)),
        ],
    }
    .into_iter()
    .flatten()
    {
        let (id, decision, source) =
            (Uuid::now_v7().to_string(), id.to_owned(), input.kind.as_str().to_owned());
        let paid = reward::Model {
            id,
            decision,
            value,
            source,
            rule: rule.to_owned(),
            comment: input.comment.clone(),
            at: row.at,
        };
        reward::Entity::insert(paid.into_active_model()).exec_without_returning(on).await?;
    }
    let mut update = decision::Entity::update_many()
        .col_expr(decision::Column::Reward, Expr::col(decision::Column::Reward).add(change))
        .filter(decision::Column::Id.eq(id));
    if let Some(activation) = input.activation {
        update = update.col_expr(decision::Column::Activation, activation.into());
    }
    update.exec(on).await?;
    Ok(row.try_into()?)
}

async fn record_one(
    on: &impl ConnectionTrait,
    input: &NewFeedback,
    learning: Option<BanditSettings>,
) -> Result<FeedbackResult, NyxError> {
    let id = input.decision.to_string();
    let missing = || NyxError::NotFound { what: "decision", id: id.clone() };
    let earlier = feedback::Entity::find()
        .filter(feedback::Column::Decision.eq(&id))
        .filter(feedback::Column::Kind.eq(input.kind.as_str()))
        .order_by_asc(feedback::Column::Revision)
        .all(on)
        .await?;
    let earlier = earlier.into_iter().map(Feedback::try_from).collect::<Result<Vec<_>, _>>()?;
    let again = repeated_under(on, input, &id).await?;
    let same_key = earlier.iter().find(|known| {
        input.key.is_some() && known.key == input.key
            || again.as_ref().is_some_and(|feedback| *feedback == known.id.to_string())
    });
    let counting = earlier.last().filter(|counting| input.repeats(counting));
    if let (None, Some(counting), Some(key)) = (same_key, counting, &input.key) {
        // recorded so that the same key changes nothing either when it is sent again after an
        // amendment
        let (kind, key, feedback) =
            (input.kind.as_str().to_owned(), key.clone(), counting.id.to_string());
        let row = feedback_key::Model { kind, key, decision: id.clone(), feedback };
        feedback_key::Entity::insert(row.into_active_model()).exec_without_returning(on).await?;
    }
    let repeated = same_key.or(counting);
    let new = repeated.is_none();
    let feedback = match repeated {
        Some(known) => known.clone(),
        None => insert(on, input, &id, earlier.last(), earlier.len() as i64 + 1).await?,
    };
    let row = decision::Entity::find_by_id(id.clone()).one(on).await?.ok_or_else(missing)?;
    let (specialist, reward, activation) = (row.specialist.clone(), row.reward, row.activation);
    let mut moved: Vec<TraitWeightChange> = Vec::new();
    if let Some(settings) = learning.filter(|_| new) {
        let drawn = DrawnDecision::of(&Decision::try_from(row)?);
        let before = earlier.last().map(|before| before.reward);
        moved = weights::update_trait_weight(on, settings, drawn.as_ref(), input, before).await?;
    }
    Ok(FeedbackResult { feedback, specialist, new, reward, activation, weights: moved })
}

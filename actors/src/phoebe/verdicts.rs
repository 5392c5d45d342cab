//! Verdicts on decisions, and the rewards that they bring.

use nyx_specialists::bandit::BanditSettings;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, SqlErr,
    Statement,
};
use uuid::Uuid;

use super::entities::{decision, reward, verdict, verdict_key};
use super::messages::{ListPromises, TraitWeightChange};
use super::store::{PhoebeStore, check_limit, now};
use super::weights;
use crate::choosing::DrawnDecision;
use crate::decision::Status;
use crate::verdict::{DecisionName, Judged, NewVerdict, Promise, Verdict, VerdictKind};
use crate::{Decision, NyxError};

/// How often a verdict is tried again when another process judged the same decision in between.
const TRIES: usize = 20;
/// Decisions that may bear one external key and be judged by it.
const MOST_NAMED: u64 = 1000;

/// Ids bound to one statement.
const KEYS_AT_ONCE: usize = 500;
/// Of the locks that keys of verdicts take, on PostgreSQL.
const KEYS_LOCK: i64 = 0x6e79_786b_6579;

/// Rule of the reward that a stated confidence adds.
const CALIBRATION: &str = "calibration";
/// Rule of the reward that brings the sum from an earlier verdict to its amendment.
const AMENDMENT: &str = "amendment";

impl PhoebeStore {
    /// The decisions of that name, oldest first.
    ///
    /// # Errors
    /// [`NyxError::NotFound`] where there is none.
    pub(super) async fn named(&self, name: DecisionName) -> Result<Vec<Decision>, NyxError> {
        let key = match name {
            DecisionName::Id(id) => return Ok(vec![self.decision(id).await?]),
            DecisionName::External(key) => key,
        };
        super::storable_name("external_key", &key)?;
        // a try that failed bears the key too, and there is nothing to judge in it
        let answered = [Status::Answered.as_str(), Status::Partial.as_str()];
        let named =
            decision::Entity::find().filter(decision::Column::ExternalKey.eq(&key)).filter(decision::Column::Status.is_in(answered));
        let rows = named.order_by_asc(decision::Column::Id).limit(MOST_NAMED).all(&self.reader).await?;
        if rows.is_empty() {
            return Err(NyxError::NotFound { what: "decision with the external key", id: key });
        }
        Ok(rows.into_iter().map(Decision::try_from).collect::<Result<_, _>>()?)
    }

    /// Puts verdicts on record, all or none, with the rewards that they bring. One that says what counts already changes nothing; another one is
    /// an amendment, and the sum of rewards follows it. With `learning`, trait weights follow in the same transaction.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] for a key under which something else was told.
    pub(super) async fn judge(&self, verdicts: Vec<NewVerdict>, learning: Option<BanditSettings>) -> Result<Vec<Judged>, NyxError> {
        for _ in 0..TRIES {
            let transaction = self.begin().await?;
            match judge(&transaction, &verdicts, learning).await {
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
        Err(NyxError::Internal(format!("the decision was judged {TRIES} times meanwhile")))
    }

    /// All verdicts on a decision, in the order in which they were told.
    pub(super) async fn verdicts(&self, decision: Uuid) -> Result<Vec<Verdict>, NyxError> {
        let told = verdict::Entity::find().filter(verdict::Column::Decision.eq(decision.to_string()));
        let rows = told.order_by_asc(verdict::Column::Id).all(&self.reader).await?;
        Ok(rows.into_iter().map(Verdict::try_from).collect::<Result<_, _>>()?)
    }

    /// Forecasts, newest first.
    pub(super) async fn promises(&self, query: ListPromises) -> Result<Vec<Promise>, NyxError> {
        check_limit(query.limit)?;
        let resolved = Query::select()
            .expr(Expr::val(1))
            .from(verdict::Entity)
            .and_where(Expr::col((verdict::Entity, verdict::Column::Decision)).equals((decision::Entity, decision::Column::Id)))
            .and_where(verdict::Column::Kind.eq(VerdictKind::Outcome.as_str()))
            .take();
        let mut select = decision::Entity::find()
            .filter(decision::Column::Probability.is_not_null())
            .filter(Condition::any().add(decision::Column::Status.eq("answered")).add(decision::Column::Status.eq("partial")))
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
        let told = verdict::Entity::find()
            .filter(verdict::Column::Kind.eq(VerdictKind::Outcome.as_str()))
            .filter(verdict::Column::Decision.is_in(ids))
            // the last of a decision is the one that counts
            .order_by_asc(verdict::Column::Revision)
            .all(&self.reader)
            .await?;
        let mut counts = std::collections::HashMap::new();
        for row in told {
            counts.insert(row.decision.clone(), Verdict::try_from(row)?);
        }
        let promised = rows.into_iter().map(|row| {
            let outcome = counts.remove(&row.id);
            Ok(Promise { decision: Decision::try_from(row)?, outcome })
        });
        Ok(promised.collect::<Result<_, DbErr>>()?)
    }
}

/// Whether a statement lost against another process: both followed the same verdict, or SQLite's snapshot was overtaken.
fn is_race(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) || error.to_string().contains("database is locked")
}

async fn judge(on: &impl ConnectionTrait, verdicts: &[NewVerdict], learning: Option<BanditSettings>) -> Result<Vec<Judged>, NyxError> {
    if learning.is_some() {
        // before any row is written: two that wait for each other's would never end
        weights::lock(on).await?;
    }
    if let Some(NewVerdict { kind, key: Some(key), .. }) = verdicts.first() {
        for heard in heard_under(on, *kind, key).await? {
            if !verdicts.iter().any(|told| told.decision == heard.decision && told.repeats(&heard)) {
                return Err(NyxError::Conflict(format!(
                    "key {key:?} was used to tell {} of decision {}: expected the same again, or another key for an amendment",
                    heard.told, heard.decision
                )));
            }
        }
    }
    let mut judged = Vec::with_capacity(verdicts.len());
    for told in verdicts {
        judged.push(judge_one(on, told, learning).await?);
    }
    Ok(judged)
}

/// All that was told under a key: the verdicts that it brought, and those that it said again while they counted.
async fn heard_under(on: &impl ConnectionTrait, kind: VerdictKind, key: &str) -> Result<Vec<Verdict>, DbErr> {
    if on.get_database_backend() == DbBackend::Postgres {
        // two who tell different things under one key at once: the second sees what the first told
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, $2))";
        let values = [format!("{} {key}", kind.as_str()).into(), KEYS_LOCK.into()];
        on.query_one_raw(Statement::from_sql_and_values(DbBackend::Postgres, lock, values)).await?;
    }
    let by_key = verdict::Entity::find().filter(verdict::Column::Kind.eq(kind.as_str())).filter(verdict::Column::Key.eq(key));
    let mut rows = by_key.all(on).await?;
    let again = verdict_key::Entity::find().filter(verdict_key::Column::Kind.eq(kind.as_str())).filter(verdict_key::Column::Key.eq(key));
    let again: Vec<String> = again.all(on).await?.into_iter().map(|row| row.verdict).collect();
    for ids in again.chunks(KEYS_AT_ONCE) {
        rows.extend(verdict::Entity::find().filter(verdict::Column::Id.is_in(ids)).all(on).await?);
    }
    rows.into_iter().map(Verdict::try_from).collect()
}

/// The verdict that a key said again, of one decision.
async fn said_again(on: &impl ConnectionTrait, told: &NewVerdict, decision: &str) -> Result<Option<String>, DbErr> {
    let Some(key) = &told.key else { return Ok(None) };
    let row = verdict_key::Entity::find_by_id((told.kind.as_str().to_owned(), key.clone(), decision.to_owned())).one(on).await?;
    Ok(row.map(|row| row.verdict))
}

async fn judge_one(on: &impl ConnectionTrait, told: &NewVerdict, learning: Option<BanditSettings>) -> Result<Judged, NyxError> {
    let id = told.decision.to_string();
    let missing = || NyxError::NotFound { what: "decision", id: id.clone() };
    let earlier = verdict::Entity::find()
        .filter(verdict::Column::Decision.eq(&id))
        .filter(verdict::Column::Kind.eq(told.kind.as_str()))
        .order_by_asc(verdict::Column::Revision)
        .all(on)
        .await?;
    let earlier = earlier.into_iter().map(Verdict::try_from).collect::<Result<Vec<_>, _>>()?;
    let again = said_again(on, told, &id).await?;
    let same_key = earlier.iter().find(|heard| {
        told.key.is_some() && heard.key == told.key || again.as_ref().is_some_and(|verdict| *verdict == heard.id.to_string())
    });
    let counting = earlier.last().filter(|counting| told.repeats(counting));
    if let (None, Some(counting), Some(key)) = (same_key, counting, &told.key) {
        // it changes nothing now, and must not change anything when it comes again after an amendment
        let (kind, key, verdict) = (told.kind.as_str().to_owned(), key.clone(), counting.id.to_string());
        let row = verdict_key::Model { kind, key, decision: id.clone(), verdict };
        verdict_key::Entity::insert(row.into_active_model()).exec_without_returning(on).await?;
    }
    let repeated = same_key.or(counting);
    let new = repeated.is_none();
    let verdict = match repeated {
        Some(heard) => heard.clone(),
        None => {
            let row = verdict::Model {
                id: Uuid::now_v7().to_string(),
                decision: id.clone(),
                kind: told.kind.as_str().to_owned(),
                key: told.key.clone(),
                value: told.value,
                told: told.told.clone(),
                reward: told.reward,
                comment: told.comment.clone(),
                correction: told.correction.clone(),
                revision: earlier.len() as i64 + 1,
                at: now(),
            };
            verdict::Entity::insert(row.clone().into_active_model()).exec_without_returning(on).await?;
            let change = told.reward - earlier.last().map_or(0.0, |before| before.reward);
            for (value, rule) in match earlier.last() {
                Some(_) => [Some((change, AMENDMENT)), None],
                None => [Some((change - told.calibration.unwrap_or(0.0), told.rule())), told.calibration.map(|value| (value, CALIBRATION))],
            }
            .into_iter()
            .flatten()
            {
                let (id, decision, source) = (Uuid::now_v7().to_string(), id.clone(), told.kind.as_str().to_owned());
                let paid = reward::Model { id, decision, value, source, rule: rule.to_owned(), comment: told.comment.clone(), at: row.at };
                reward::Entity::insert(paid.into_active_model()).exec_without_returning(on).await?;
            }
            let mut update = decision::Entity::update_many()
                .col_expr(decision::Column::Reward, Expr::col(decision::Column::Reward).add(change))
                .filter(decision::Column::Id.eq(&id));
            if let Some(activation) = told.activation {
                update = update.col_expr(decision::Column::Activation, activation.into());
            }
            update.exec(on).await?;
            row.try_into()?
        }
    };
    let row = decision::Entity::find_by_id(id.clone()).one(on).await?.ok_or_else(missing)?;
    let (specialist, reward, activation) = (row.specialist.clone(), row.reward, row.activation);
    let mut moved: Vec<TraitWeightChange> = Vec::new();
    if let Some(settings) = learning.filter(|_| new) {
        let drawn = DrawnDecision::of(&Decision::try_from(row)?);
        let before = earlier.last().map(|before| before.reward);
        moved = weights::update_trait_weight(on, settings, drawn.as_ref(), told, before).await?;
    }
    Ok(Judged { verdict, specialist, new, reward, activation, weights: moved })
}

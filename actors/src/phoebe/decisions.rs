//! The decision log: recording and reading decisions.

use chrono::SubsecRound;
use nyx_domain::{Decision, Status};
use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect, SqlErr,
};
use uuid::Uuid;

use super::entities::{decision, reward};
use super::limit::check_limit;
use super::messages::{ListDecisions, RecordDecision};
use super::store::{PhoebeStore, now};
use super::text::storable;
use super::transaction::WriteTransaction;
use crate::NyxError;

impl PhoebeStore {
    /// Records a decision in one transaction; a decision that is already on record is left
    /// unchanged.
    ///
    /// # Errors
    /// The database did not commit it.
    pub(super) async fn record(&self, message: &RecordDecision) -> Result<(), NyxError> {
        let transaction = self.begin().await?;
        if let Err(error) = record_in(&transaction, message).await {
            transaction.rollback().await;
            return match error.sql_err() {
                Some(SqlErr::UniqueConstraintViolation(_)) => Ok(()),
                _ => Err(error.into()),
            };
        }
        Ok(transaction.commit().await?)
    }

    /// Records decisions in one transaction, all or none.
    ///
    /// # Errors
    /// The database did not commit them; or one of them is on record already.
    pub(super) async fn record_all(&self, messages: &[RecordDecision]) -> Result<(), NyxError> {
        let transaction = self.begin().await?;
        for message in messages {
            if let Err(error) = record_in(&transaction, message).await {
                transaction.rollback().await;
                return Err(error.into());
            }
        }
        Ok(transaction.commit().await?)
    }

    pub(super) async fn decision(&self, id: Uuid) -> Result<Decision, NyxError> {
        let row = decision::Entity::find_by_id(id.to_string()).one(&self.reader).await?;
        let row = row.ok_or_else(|| NyxError::NotFound { what: "decision", id: id.to_string() })?;
        Ok(row.try_into()?)
    }

    pub(super) async fn decisions(&self, query: ListDecisions) -> Result<Vec<Decision>, NyxError> {
        check_limit(query.limit)?;
        for (name, value) in
            [("specialist", &query.specialist), ("conversation", &query.conversation)]
        {
            value.as_deref().map_or(Ok(()), |value| storable(name, value))?;
        }
        let mut select =
            decision::Entity::find().order_by_desc(decision::Column::Id).limit(query.limit);
        if let Some(specialist) = query.specialist {
            select = select.filter(decision::Column::Specialist.eq(specialist));
        }
        if let Some(conversation) = query.conversation {
            select = select.filter(decision::Column::Conversation.eq(conversation));
        }
        if let Some(before) = query.before {
            select = select.filter(decision::Column::Id.lt(before.to_string()));
        }
        let rows = select.all(&self.reader).await?;
        Ok(rows.into_iter().map(Decision::try_from).collect::<Result<_, _>>()?)
    }
}

/// Inserts a decision with its automatic reward, or completes a deferred one.
async fn record_in(transaction: &WriteTransaction, message: &RecordDecision) -> Result<(), DbErr> {
    let mut row = decision::Model::try_from(&*message.decision)?;
    row.asked_at = row.asked_at.trunc_subsecs(6);
    row.reward = message.reward.as_ref().map_or(0.0, |(value, _)| *value);
    let id = row.id.clone();
    if message.completes {
        let added = row.reward;
        let mut row = row.into_active_model().reset_all();
        // feedback recorded in the meantime may have changed the reward
        row.reward = ActiveValue::NotSet;
        let reward = Expr::col(decision::Column::Reward).add(added);
        let updated = decision::Entity::update_many()
            .set(row)
            .col_expr(decision::Column::Reward, reward)
            .filter(decision::Column::Status.eq(Status::Deferred.as_str()))
            .filter(decision::Column::Id.eq(&id))
            .exec(transaction)
            .await?;
        if updated.rows_affected == 0 {
            // already completed
            return Ok(());
        }
    } else {
        row.into_active_model().insert(transaction).await?;
    }
    let Some((value, rule)) = message.reward.clone() else { return Ok(()) };
    let row = reward::Model {
        id: Uuid::now_v7().to_string(),
        decision: id,
        value,
        source: "automatic".to_owned(),
        rule,
        comment: None,
        at: now(),
    };
    row.into_active_model().insert(transaction).await?;
    Ok(())
}

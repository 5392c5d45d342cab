//! The decision log: recording and reading decisions.

use chrono::SubsecRound;
use nyx_domain::{Decision, Status};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect, SqlErr,
};
use uuid::Uuid;

use super::entities::{decision, reward};
use super::limit::check_limit;
use super::messages::{ListDecisions, RecordDecision};
use super::store::{PhoebeStore, now};
use super::text::storable;
use crate::NyxError;
impl PhoebeStore {
    /// Records a decision in one transaction; a decision that is already on record is left
    /// unchanged.
    pub(super) async fn record(&self, message: RecordDecision) -> Result<(), NyxError> {
        let mut row = decision::Model::try_from(&*message.decision)?;
        row.asked_at = row.asked_at.trunc_subsecs(6);
        row.reward = message.reward.as_ref().map_or(0.0, |(value, _)| *value);
        let id = row.id.clone();
        let transaction = self.begin().await?;
        if message.completes {
            let deferred = decision::Column::Status.eq(Status::Deferred.as_str());
            let mut row = row.into_active_model().reset_all();
            // feedback recorded in the meantime may have changed the reward
            row.reward = ActiveValue::NotSet;
            let added = message.reward.as_ref().map_or(0.0, |(value, _)| *value);
            let updated = decision::Entity::update_many().set(row).filter(deferred);
            let updated = updated.col_expr(
                decision::Column::Reward,
                sea_orm::sea_query::ExprTrait::add(Expr::col(decision::Column::Reward), added),
            );
            if updated.filter(decision::Column::Id.eq(&id)).exec(&transaction).await?.rows_affected
                == 0
            {
                // already completed
                transaction.rollback().await;
                return Ok(());
            }
        } else if let Err(error) = row.into_active_model().insert(&transaction).await {
            transaction.rollback().await;
            return match error.sql_err() {
                Some(SqlErr::UniqueConstraintViolation(_)) => Ok(()),
                _ => Err(error.into()),
            };
        }
        if let Some((value, rule)) = message.reward {
            let source = "automatic".to_owned();
            let row = reward::Model {
                id: Uuid::now_v7().to_string(),
                decision: id,
                value,
                source,
                rule,
                comment: None,
                at: now(),
            };
            row.into_active_model().insert(&transaction).await?;
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

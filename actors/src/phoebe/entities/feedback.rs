//! `nyx_feedback`: outcomes of decisions and user feedback on them. Append-only: the newest entry
//! of a decision and kind is in effect.

use chrono::{DateTime, Utc};
use nyx_domain::{Feedback, FeedbackKind};
use sea_orm::DbErr;
use sea_orm::entity::prelude::*;

use super::decision::uuid_of;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "nyx_feedback")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub decision: String,
    /// `outcome` or `feedback`.
    pub kind: String,
    /// The caller's idempotency key: sending an entry twice under the same key records it once.
    pub key: Option<String>,
    pub value: f64,
    /// The value as the caller sent it.
    #[sea_orm(column_type = "JsonBinary")]
    pub input: Json,
    pub reward: f64,
    pub comment: Option<String>,
    pub correction: Option<String>,
    /// 1 for the first entry of a decision and kind, then increasing by one.
    pub revision: i64,
    pub at: DateTime<Utc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for Feedback {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        let kind = FeedbackKind::parse(&row.kind)
            .ok_or_else(|| DbErr::Custom(format!("{:?} is not a feedback kind", row.kind)))?;
        Ok(Self {
            id: uuid_of(&row.id)?,
            decision: uuid_of(&row.decision)?,
            kind,
            key: row.key,
            value: row.value,
            input: row.input,
            reward: row.reward,
            comment: row.comment,
            correction: row.correction,
            revision: row.revision.cast_unsigned(),
            at: row.at,
        })
    }
}

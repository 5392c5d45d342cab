//! `nyx_rewards`: each reward with its source; the decision's row holds the sum.

use chrono::{DateTime, Utc};
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "nyx_rewards")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub decision: String,
    /// In [-1, 1]; for an amendment, the difference to the amended entry.
    pub value: f64,
    /// `automatic`, `feedback` or `outcome`.
    pub source: String,
    pub rule: String,
    pub comment: Option<String>,
    pub at: DateTime<Utc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

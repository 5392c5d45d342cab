//! `nyx_trait_weights`: the history of trait weights; a name's highest revision is its current
//! weight.

use chrono::{DateTime, Utc};
use nyx_domain::TraitWeightChange;
use sea_orm::DbErr;
use sea_orm::entity::prelude::*;

use super::decision::uuid_of;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "nyx_trait_weights")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub name: String,
    pub from_weight: f64,
    pub to_weight: f64,
    pub reason: String,
    pub reward: Option<f64>,
    pub decision: Option<String>,
    pub revision: i64,
    pub at: DateTime<Utc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for TraitWeightChange {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        let decision = row.decision.as_deref().map(uuid_of).transpose()?;
        let (name, from, to) = (row.name, row.from_weight, row.to_weight);
        Ok(Self { name, from, to, reason: row.reason, reward: row.reward, decision, at: row.at })
    }
}

//! `nyx_reward_baselines`: running means that are subtracted from rewards before they update trait
//! weights.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "nyx_reward_baselines")]
pub struct Model {
    /// `feedback` or `outcome`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub source: String,
    /// The specialist that would have been selected without trait weights.
    #[sea_orm(primary_key, auto_increment = false)]
    pub kind: String,
    /// Number of rewards, with decay.
    pub count: f64,
    pub sum: f64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

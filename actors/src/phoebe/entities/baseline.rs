//! `nyx_reward_baselines`: the running means that rewards are compared with before they move trait weights.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "nyx_reward_baselines")]
pub struct Model {
    /// `feedback` or `outcome`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub source: String,
    /// The specialist that would have been chosen without trait weights.
    #[sea_orm(primary_key, auto_increment = false)]
    pub kind: String,
    /// Rewards, of which forgotten ones count less.
    pub count: f64,
    pub sum: f64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

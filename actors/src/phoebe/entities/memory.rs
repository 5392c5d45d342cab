//! `nyx_subjective_memory`.

use chrono::{DateTime, Utc};
use sea_orm::DbErr;
use sea_orm::entity::prelude::*;

use super::decision::uuid_of;
use crate::phoebe::messages::Memory;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "nyx_subjective_memory")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub text: String,
    pub speaker: Option<String>,
    pub happened_at: Option<DateTime<Utc>>,
    pub conversation: Option<String>,
    pub stored_at: DateTime<Utc>,
    pub indexed: bool,
    pub caption: Option<String>,
    /// Being forgotten: out of sight, and deleted once the index holds it no more.
    pub forgotten: bool,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl From<Memory> for Model {
    fn from(memory: Memory) -> Self {
        Self {
            id: memory.id.to_string(),
            text: memory.text,
            speaker: memory.speaker,
            happened_at: memory.when,
            conversation: memory.conversation,
            stored_at: memory.stored_at,
            indexed: false,
            caption: memory.caption,
            forgotten: false,
        }
    }
}

impl TryFrom<Model> for Memory {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        Ok(Self {
            id: uuid_of(&row.id)?,
            text: row.text,
            speaker: row.speaker,
            when: row.happened_at,
            conversation: row.conversation,
            stored_at: row.stored_at,
            caption: row.caption,
        })
    }
}

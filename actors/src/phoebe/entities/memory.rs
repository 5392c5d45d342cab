//! `nyx_subjective_memory`.

use chrono::{DateTime, Utc};
use nyx_domain::Memory;
use sea_orm::DbErr;
use sea_orm::entity::prelude::*;

use super::decision::uuid_of;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "nyx_subjective_memory")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub tenant: String,
    pub text: String,
    pub speaker: Option<String>,
    pub happened_at: Option<DateTime<Utc>>,
    pub conversation: Option<String>,
    pub stored_at: DateTime<Utc>,
    pub caption: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::phoebe) fn of(tenant: &str, memory: &Memory) -> Self {
        Self {
            id: memory.id.to_string(),
            tenant: tenant.to_owned(),
            text: memory.text.clone(),
            speaker: memory.speaker.clone(),
            happened_at: memory.when,
            conversation: memory.conversation.clone(),
            stored_at: memory.stored_at,
            caption: memory.caption.clone(),
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

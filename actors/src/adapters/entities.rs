//! The tables of adapters: `nyx_adapters`, `nyx_generations` and `nyx_canaries`.

pub(super) mod adapter {
    use chrono::{DateTime, Utc};
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "nyx_adapters")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub specialist: String,
        pub base_sha256: String,
        pub generation: i64,
        pub path: String,
        pub bytes: i64,
        pub status: String,
        pub training_run: Option<String>,
        pub created_at: DateTime<Utc>,
        pub promoted_at: Option<DateTime<Utc>>,
        pub retired_at: Option<DateTime<Utc>>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(super) mod generation {
    use chrono::{DateTime, Utc};
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "nyx_generations")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub specialist: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub generation: i64,
        pub adapter_id: Option<String>,
        pub kind: String,
        pub reason: String,
        pub at: DateTime<Utc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(super) mod canary {
    use chrono::{DateTime, Utc};
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "nyx_canaries")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub specialist: String,
        pub adapter_id: String,
        pub share: f64,
        pub at: DateTime<Utc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

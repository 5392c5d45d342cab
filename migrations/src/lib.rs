//! Phoebe's schema, the same on SQLite and PostgreSQL. A released migration never changes.

#![cfg_attr(test, allow(clippy::too_many_lines))]
// the trait itself elides it
#![allow(elided_lifetimes_in_paths)]

use sea_orm_migration::prelude::*;

mod m20261124_000001_decisions;
mod m20261124_000002_learning;
mod m20261125_000001_given;
mod m20261125_000003_memories;
mod m20261125_000004_tables;
mod m20261125_000005_routing;
mod m20261125_000006_feedback;
mod m20261127_000001_baselines;
mod m20261127_000002_generations;
mod m20261201_000001_durability;
mod m20261201_000003_similarities;
mod m20261201_000005_memory_search;

/// All migrations, oldest first.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261124_000001_decisions::Migration),
            Box::new(m20261124_000002_learning::Migration),
            Box::new(m20261125_000001_given::Migration),
            Box::new(m20261125_000003_memories::Migration),
            Box::new(m20261125_000004_tables::Migration),
            Box::new(m20261125_000005_routing::Migration),
            Box::new(m20261125_000006_feedback::Migration),
            Box::new(m20261127_000001_baselines::Migration),
            Box::new(m20261127_000002_generations::Migration),
            Box::new(m20261201_000001_durability::Migration),
            Box::new(m20261201_000003_similarities::Migration),
            Box::new(m20261201_000005_memory_search::Migration),
        ]
    }
}

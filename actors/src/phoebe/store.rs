//! Phoebe's operations over one database, SQLite or PostgreSQL.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use nyx_migrations::Migrator;
use sea_orm::sea_query::Expr;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr,
    EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, SqlErr, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use uuid::Uuid;

use super::entities::{decision, reward};
use super::messages::{ListDecisions, RecordDecision};
use super::options::PhoebeOptions;
use super::{search, storable};
use crate::decision::Status;
use crate::{Decision, NyxError};

/// Rows a list may have.
pub(super) const MAX_ROWS: u64 = 1000;
/// One number for all Nyx processes: who migrates holds it.
const MIGRATION_LOCK: i64 = 0x6e79_7870_686f;
/// One to hold that lock, one to migrate with.
const LEAST_CONNECTIONS: u32 = 2;
const MIGRATION_TRIES: usize = 20;
const OPENING_TRIES: usize = 100;
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);

/// A connected phoebe. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PhoebeStore {
    pub(super) writer: DatabaseConnection,
    /// Cannot write: another connection, read-only, on SQLite; on PostgreSQL the same pool in read-only transactions.
    pub(super) reader: DatabaseConnection,
}

impl PhoebeStore {
    /// Connects and brings the schema up to date.
    ///
    /// # Errors
    /// The database cannot be reached (the message names its URL, without the password) or migrated.
    pub async fn connect(options: &PhoebeOptions, data_dir: &Path) -> Result<Self, NyxError> {
        let store = Self::open(options, data_dir).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Connects and leaves the schema as it is.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn open(options: &PhoebeOptions, data_dir: &Path) -> Result<Self, NyxError> {
        let url = options.url_in(data_dir);
        let named = |error: DbErr| DbErr::Custom(format!("cannot connect to {url}: {}", url.scrub(&error.to_string())));
        let timeout = Duration::from_millis(options.acquire_timeout_ms);
        // told at the handshake, so that every connection of the pool has it
        let statement_timeout = Some(Duration::from_millis(options.statement_timeout_ms));
        let mut settings = url.connect_options(statement_timeout).map_err(named)?;
        settings.acquire_timeout(timeout).connect_timeout(timeout).sqlx_logging(false);
        if url.is_sqlite() {
            search::vector_extension::register();
            // one writer: SQLite has no more, and waiting for a connection is fairer than its busy loop
            settings.max_connections(1).min_connections(1).map_sqlx_sqlite_opts(move |sqlite| {
                // FULL: an acknowledged decision survives the machine's crash
                let sqlite = sqlite.create_if_missing(true).journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
                // what is deleted is overwritten
                sqlite.busy_timeout(timeout).foreign_keys(true).pragma("secure_delete", "ON")
            });
            let writer = connect_sqlite(settings).await.map_err(named)?;
            if url.expose().contains(":memory:") {
                return Ok(Self { reader: writer.clone(), writer });
            }
            let mut settings = url.connect_options(None).map_err(named)?;
            settings.acquire_timeout(timeout).max_connections(4).sqlx_logging(false);
            settings.map_sqlx_sqlite_opts(move |sqlite| sqlite.read_only(true).busy_timeout(timeout));
            let reader = connect_sqlite(settings).await.map_err(named)?;
            return Ok(Self { writer, reader });
        }
        settings.max_connections(options.max_connections.max(LEAST_CONNECTIONS));
        let writer = Database::connect(settings).await.map_err(named)?;
        Ok(Self { reader: writer.clone(), writer })
    }

    /// Brings the schema up to date; several processes may do so at once.
    ///
    /// # Errors
    /// What the database says.
    pub async fn migrate(&self) -> Result<(), NyxError> {
        if self.writer.get_database_backend() != DbBackend::Postgres {
            return self.migrate_sqlite().await;
        }
        // the lock lives as long as this transaction, which the migrations run beside
        let lock = self.writer.begin().await?;
        // another process may migrate for longer than a statement may take
        lock.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
        lock.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")).await?;
        let migrated = Migrator::up(&self.writer, None).await;
        lock.commit().await?;
        Ok(migrated?)
    }

    /// SQLite has no advisory lock: who loses the race for a migration finds it done when it looks again.
    async fn migrate_sqlite(&self) -> Result<(), NyxError> {
        let mut tries = 0;
        loop {
            match Migrator::up(&self.writer, None).await {
                Ok(()) => return Ok(()),
                Err(error) if tries == MIGRATION_TRIES => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "another process may be migrating: looking again"),
            }
            tries += 1;
            tokio::time::sleep(MIGRATION_PAUSE).await;
        }
    }

    /// Migrations that have not been applied yet.
    ///
    /// # Errors
    /// What the database says.
    pub async fn pending_migrations(&self) -> Result<usize, NyxError> {
        Ok(Migrator::get_pending_migrations(&self.writer).await?.len())
    }

    /// `sqlite` or `postgres`.
    pub fn backend(&self) -> &'static str {
        if self.writer.get_database_backend() == DbBackend::Postgres { "postgres" } else { "sqlite" }
    }

    pub(super) async fn ping(&self) -> Result<(), NyxError> {
        Ok(self.writer.ping().await?)
    }

    /// One transaction; a decision that is on record already is left as it is.
    pub(super) async fn record(&self, message: RecordDecision) -> Result<(), NyxError> {
        let mut row = decision::Model::try_from(&*message.decision)?;
        row.asked_at = row.asked_at.trunc_subsecs(6);
        row.reward = message.reward.as_ref().map_or(0.0, |(value, _)| *value);
        let id = row.id.clone();
        let transaction = self.writer.begin().await?;
        if message.completes {
            let deferred = decision::Column::Status.eq(Status::Deferred.as_str());
            let mut row = row.into_active_model().reset_all();
            // verdicts may have come in between
            row.reward = ActiveValue::NotSet;
            let added = message.reward.as_ref().map_or(0.0, |(value, _)| *value);
            let updated = decision::Entity::update_many().set(row).filter(deferred);
            let updated =
                updated.col_expr(decision::Column::Reward, sea_orm::sea_query::ExprTrait::add(Expr::col(decision::Column::Reward), added));
            if updated.filter(decision::Column::Id.eq(&id)).exec(&transaction).await?.rows_affected == 0 {
                // completed already
                return Ok(transaction.rollback().await?);
            }
        } else if let Err(error) = row.into_active_model().insert(&transaction).await {
            transaction.rollback().await?;
            return match error.sql_err() {
                Some(SqlErr::UniqueConstraintViolation(_)) => Ok(()),
                _ => Err(error.into()),
            };
        }
        if let Some((value, rule)) = message.reward {
            let source = "automatic".to_owned();
            let row = reward::Model { id: Uuid::now_v7().to_string(), decision: id, value, source, rule, comment: None, at: now() };
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
        for (name, value) in [("specialist", &query.specialist), ("conversation", &query.conversation)] {
            value.as_deref().map_or(Ok(()), |value| storable(name, value))?;
        }
        let mut select = decision::Entity::find().order_by_desc(decision::Column::Id).limit(query.limit);
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

    /// For those who keep tables of their own in phoebe's database.
    pub(crate) fn writer(&self) -> &DatabaseConnection {
        &self.writer
    }

    pub(crate) fn reader(&self) -> &DatabaseConnection {
        &self.reader
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &DatabaseConnection {
        &self.writer
    }

    #[cfg(test)]
    pub(super) fn reading(&self) -> &DatabaseConnection {
        &self.reader
    }

    /// Closes the connections; what was acknowledged is on disk already.
    pub async fn close(&self) {
        for connection in [&self.reader, &self.writer] {
            if let Err(error) = connection.clone().close().await {
                tracing::warn!(%error, "phoebe did not close");
            }
        }
    }
}

/// Several processes may open a new database at once: while one of them turns its journal into a log, the others are told at once that it
/// is locked, however long they would wait.
async fn connect_sqlite(settings: ConnectOptions) -> Result<DatabaseConnection, DbErr> {
    let mut tries = 0;
    loop {
        match Database::connect(settings.clone()).await {
            Err(error) if tries < OPENING_TRIES && error.to_string().contains("database is locked") => {
                tracing::debug!(%error, "another process may be opening the database: looking again");
            }
            outcome => return outcome,
        }
        tries += 1;
        tokio::time::sleep(MIGRATION_PAUSE).await;
    }
}

/// In the precision that both databases keep.
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

pub(super) fn check_limit(limit: u64) -> Result<(), NyxError> {
    if (1..=MAX_ROWS).contains(&limit) {
        return Ok(());
    }
    Err(NyxError::invalid("limit", format!("limit is {limit}, expected 1 to {MAX_ROWS}")))
}

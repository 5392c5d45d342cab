//! Read-only access to a database: the database itself enforces it, and cancels queries that exceed
//! the time limit.
//!
//! SQLite: a separate connection, opened read-only, with `query_only` on and a progress handler
//! that interrupts a statement at its deadline. PostgreSQL: read-only transactions with a statement
//! time-out, under a read-only role if one is configured.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sea_orm::sea_query::SelectStatement;
use sea_orm::{
    AccessMode, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    DbErr, QueryResult, RuntimeErr, Statement, TransactionTrait,
};

use crate::NyxError;
use crate::secret::SecretUrl;

/// Maximum number of connections to a PostgreSQL database.
const CONNECTIONS: u32 = 4;
const ACQUIRE: Duration = Duration::from_secs(5);
/// SQLite virtual machine instructions between two deadline checks.
const BETWEEN_LOOKS: i32 = 1_000;
/// Error codes of a cancelled query: PostgreSQL's `query_canceled` and SQLite's `SQLITE_INTERRUPT`.
const CUT: [&str; 2] = ["57014", "9"];

/// The deadline of the running statement, in ms since `began`; 0 if none is running.
#[derive(Debug)]
struct Watch {
    began: Instant,
    until: AtomicU64,
}

impl Watch {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn may_go_on(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until == 0 || self.now() < until
    }
}

/// A read-only database connection.
#[derive(Debug)]
pub(super) struct Reader {
    connection: DatabaseConnection,
    /// The database URL without its password.
    shown: String,
    role: Option<String>,
    limit: Duration,
    watch: Arc<Watch>,
    /// SQLite has one deadline per connection, so statements run one at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Reader {
    /// # Errors
    /// The database cannot be reached; the message contains its URL without the password.
    pub(super) async fn connect(
        url: &SecretUrl,
        role: Option<String>,
        limit: Duration,
    ) -> Result<Self, NyxError> {
        let shown = url.to_string();
        let named = |error: DbErr| NyxError::FactTableError {
            origin: shown.clone(),
            reason: format!("cannot connect: {}", url.scrub(&error.to_string())),
        };
        let watch = Arc::new(Watch { began: Instant::now(), until: AtomicU64::new(0) });
        let mut settings = url.connect_options(None).map_err(named)?;
        settings.acquire_timeout(ACQUIRE).connect_timeout(ACQUIRE).sqlx_logging(false);
        if url.is_sqlite() {
            if sqlite_path(url.expose()).is_some_and(|path| !Path::new(path).exists()) {
                return Err(NyxError::FactTableError {
                    origin: shown,
                    reason: "cannot connect: the file does not exist".into(),
                });
            }
            let handler = Arc::clone(&watch);
            settings
                .max_connections(1)
                .map_sqlx_sqlite_opts(|sqlite| {
                    sqlite.read_only(true).busy_timeout(ACQUIRE).pragma("query_only", "ON")
                })
                .map_sqlx_sqlite_pool_opts(move |pool| {
                    let handler = Arc::clone(&handler);
                    pool.after_connect(move |connection, _| {
                        let handler = Arc::clone(&handler);
                        Box::pin(async move {
                            connection
                                .lock_handle()
                                .await?
                                .set_progress_handler(BETWEEN_LOOKS, move || handler.may_go_on());
                            Ok(())
                        })
                    })
                });
        } else {
            settings.max_connections(CONNECTIONS);
        }
        let connection = Database::connect(settings).await.map_err(named)?;
        Ok(Self { connection, shown, role, limit, watch, turn: tokio::sync::Mutex::new(()) })
    }

    pub(super) fn is_postgres(&self) -> bool {
        self.connection.get_database_backend() == DbBackend::Postgres
    }

    /// Runs a SELECT statement.
    ///
    /// # Errors
    /// [`NyxError::QueryTooLong`] if it exceeds the time limit; else the database's error with its
    /// URL.
    pub(super) async fn select(
        &self,
        select: &SelectStatement,
    ) -> Result<Vec<QueryResult>, NyxError> {
        self.read(self.connection.get_database_backend().build(select)).await
    }

    /// Runs a statement with bound values; on PostgreSQL in a read-only transaction.
    pub(super) async fn read(&self, statement: Statement) -> Result<Vec<QueryResult>, NyxError> {
        if self.is_postgres() {
            return self.read_postgres(statement).await;
        }
        let _one_at_a_time = self.turn.lock().await;
        let limit = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
        self.watch.until.store(self.watch.now().saturating_add(limit).max(1), Ordering::Relaxed);
        let rows = self.connection.query_all_raw(statement).await;
        self.watch.until.store(0, Ordering::Relaxed);
        rows.map_err(|error| self.explain(error))
    }

    async fn read_postgres(&self, statement: Statement) -> Result<Vec<QueryResult>, NyxError> {
        let named = |error: DbErr| self.explain(error);
        let transaction = self
            .connection
            .begin_with_config(None, Some(AccessMode::ReadOnly))
            .await
            .map_err(named)?;
        self.set(&transaction, "statement_timeout", &self.limit.as_millis().to_string())
            .await
            .map_err(named)?;
        if let Some(role) = &self.role {
            self.set(&transaction, "role", role).await.map_err(named)?;
        }
        let found = transaction.query_all_raw(statement).await.map_err(named)?;
        transaction.rollback().await.map_err(named)?;
        Ok(found)
    }

    /// `SET LOCAL` with bound values.
    async fn set(
        &self,
        transaction: &DatabaseTransaction,
        name: &str,
        value: &str,
    ) -> Result<(), DbErr> {
        let values = [name.into(), value.into()];
        let set = Statement::from_sql_and_values(
            DbBackend::Postgres,
            "SELECT set_config($1, $2, true)",
            values,
        );
        transaction.query_one_raw(set).await.map(drop)
    }

    fn explain(&self, error: DbErr) -> NyxError {
        let code = match &error {
            DbErr::Query(RuntimeErr::SqlxError(inner))
            | DbErr::Exec(RuntimeErr::SqlxError(inner)) => inner
                .as_database_error()
                .and_then(|inner| inner.code())
                .map(|code| code.into_owned()),
            _ => None,
        };
        if code.is_some_and(|code| CUT.contains(&code.as_str())) {
            let limit_ms = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
            return NyxError::QueryTooLong { origin: self.shown.clone(), limit_ms };
        }
        NyxError::FactTableError { origin: self.shown.clone(), reason: error.to_string() }
    }

    pub(super) async fn close(&self) {
        if let Err(error) = self.connection.clone().close().await {
            tracing::warn!(%error, database = self.shown, "closing the database of a table failed");
        }
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &DatabaseConnection {
        &self.connection
    }
}

/// The file path of an SQLite URL.
fn sqlite_path(url: &str) -> Option<&str> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(path.split('?').next().unwrap_or(path))
}

//! The only write path to phoebe's database: a transaction on its own connection, which returns to
//! the pool only after a clean commit or rollback. After a failure the connection is closed: SQLite
//! may roll back by itself when a disk is full, and further writes on that connection would be
//! acknowledged but never committed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{self, AssertSqlSafe, Executor, Postgres, Sqlite};
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, SqlErr,
    Statement,
};
use sea_query_sqlx::SqlxValues;

use super::sqlite::{self, DatabaseFile, FileState};
use super::store::PhoebeStore;

enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// Why a transaction refuses further statements.
#[derive(Debug, Clone)]
struct Failure {
    reason: String,
    /// The database rejected a row and is unchanged: the connection can be reused after a rollback.
    harmless: bool,
}

/// A write transaction. Dropping it without [`commit`](Self::commit) or
/// [`rollback`](Self::rollback) closes its connection.
pub(crate) struct WriteTransaction {
    connection: tokio::sync::Mutex<Connection>,
    backend: DbBackend,
    file: Option<Arc<DatabaseFile>>,
    /// Time limit of one statement.
    patience: Duration,
    failure: Mutex<Option<Failure>>,
    /// The connection can be reused.
    sound: bool,
    /// The database is in memory and would be lost with its only connection; the next user of the
    /// connection rolls the transaction back.
    in_memory: bool,
}

impl PhoebeStore {
    /// Begins a write transaction. On SQLite, writers wait for each other here, so that none reads
    /// a snapshot that becomes outdated.
    ///
    /// # Errors
    /// No connection is available, or the database file was removed or replaced.
    pub(crate) async fn begin(&self) -> Result<WriteTransaction, DbErr> {
        if let Some(file) = &self.file {
            file.check()?;
        }
        let backend = self.writer.get_database_backend();
        let connection = match backend {
            DbBackend::Postgres => Connection::Postgres(
                self.writer.get_postgres_connection_pool().acquire().await.map_err(acquiring)?,
            ),
            _ => Connection::Sqlite(
                self.writer.get_sqlite_connection_pool().acquire().await.map_err(acquiring)?,
            ),
        };
        let transaction = WriteTransaction {
            connection: tokio::sync::Mutex::new(connection),
            backend,
            file: self.file.clone(),
            patience: self.patience,
            failure: Mutex::new(None),
            sound: false,
            in_memory: backend == DbBackend::Sqlite && self.file.is_none(),
        };
        transaction.is_committed("before it began").await?;
        let begin = if backend == DbBackend::Postgres { "BEGIN" } else { "BEGIN IMMEDIATE" };
        transaction.execute_unprepared(begin).await?;
        Ok(transaction)
    }
}

fn acquiring(error: sqlx::Error) -> DbErr {
    match error {
        sqlx::Error::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
        sqlx::Error::PoolClosed => DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed),
        error => DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))),
    }
}

/// Runs `$work` with the statement as `$query` on either database backend.
macro_rules! on_either {
    ($self:ident, $statement:ident, |$query:ident, $connection:ident| $work:expr) => {
        $self
            .attempt(async {
                let values = SqlxValues($statement.values.unwrap_or(sea_orm::Values(Vec::new())));
                let sql = AssertSqlSafe($statement.sql);
                match &mut *$self.connection.lock().await {
                    Connection::Sqlite(connection) => {
                        let ($query, $connection) =
                            (sqlx::query_with(sql, values), &mut **connection);
                        $work
                    }
                    Connection::Postgres(connection) => {
                        let ($query, $connection) =
                            (sqlx::query_with(sql, values), &mut **connection);
                        $work
                    }
                }
            })
            .await
    };
}

#[async_trait::async_trait]
impl ConnectionTrait for WriteTransaction {
    fn get_database_backend(&self) -> DbBackend {
        self.backend
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        on_either!(self, statement, |query, connection| query
            .execute(connection)
            .await
            .map(ExecResult::from))
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.attempt(self.execute_text(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        on_either!(self, statement, |query, connection| query
            .fetch_optional(connection)
            .await
            .map(|row| row.map(QueryResult::from)))
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        on_either!(self, statement, |query, connection| {
            query
                .fetch_all(connection)
                .await
                .map(|rows| rows.into_iter().map(QueryResult::from).collect())
        })
    }
}

impl WriteTransaction {
    /// Commits. The data is durable once this returns `Ok`, and must not be acknowledged earlier.
    ///
    /// # Errors
    /// An earlier statement failed, the database did not commit, or the database file was removed
    /// or replaced.
    pub(crate) async fn commit(mut self) -> Result<(), DbErr> {
        self.execute_unprepared("COMMIT").await?;
        self.is_committed("after its commit").await?;
        self.sound = true;
        Ok(())
    }

    /// Rolls back. If the rollback fails, or an earlier failure was more than a rejected row, the
    /// connection is closed, which also rolls back.
    pub(crate) async fn rollback(mut self) {
        let harmless = self.failure().take().is_none_or(|failure| failure.harmless);
        let rolled_back = self.execute_unprepared("ROLLBACK").await.is_ok()
            && self.is_committed("after it was rolled back").await.is_ok();
        self.sound = harmless && rolled_back;
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn execute_text(&self, sql: &str) -> Result<ExecResult, sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &mut *self.connection.lock().await {
            Connection::Sqlite(connection) => {
                (&mut **connection).execute(sql).await.map(ExecResult::from)
            }
            Connection::Postgres(connection) => {
                (&mut **connection).execute(sql).await.map(ExecResult::from)
            }
        }
    }

    /// Runs one statement within its time limit. After a failure all further statements are
    /// refused: PostgreSQL refuses them too, and SQLite may have rolled back the earlier ones.
    async fn attempt<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>> + Send,
    ) -> Result<T, DbErr> {
        let given_up = Failure { reason: "a statement was cancelled".to_owned(), harmless: false };
        let earlier = self.failure().replace(given_up);
        if let Some(earlier) = earlier {
            let refused =
                DbErr::Custom(format!("the transaction failed before: {}", earlier.reason));
            *self.failure() = Some(earlier);
            return Err(refused);
        }
        let (error, harmless) = match tokio::time::timeout(self.patience, work).await {
            Ok(Ok(done)) => {
                *self.failure() = None;
                return Ok(done);
            }
            Ok(Err(error)) => {
                let error = DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)));
                let harmless =
                    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)));
                (error, harmless)
            }
            Err(_) => (
                DbErr::Custom(format!(
                    "the database did not answer in {} ms",
                    self.patience.as_millis()
                )),
                false,
            ),
        };
        *self.failure() = Some(Failure { reason: error.to_string(), harmless });
        Err(error)
    }

    /// Checks that no transaction is open on the connection, and that it writes to the file with
    /// the database's name.
    async fn is_committed(&self, when: &str) -> Result<(), DbErr> {
        if let Connection::Sqlite(connection) = &mut *self.connection.lock().await {
            let FileState { autocommit, moved } =
                sqlite::standing(connection).await.map_err(acquiring)?;
            if !autocommit {
                return Err(DbErr::Custom(format!(
                    "a transaction was open {when}: nothing was recorded, the connection is closed"
                )));
            }
            if moved && self.file.is_some() {
                let lost = "the database file was removed or replaced: new writes would be lost; restore it, or restart Nyx";
                return Err(DbErr::Custom(lost.to_owned()));
            }
        }
        self.file.as_ref().map_or(Ok(()), |file| file.check_with_log())
    }
}

impl Drop for WriteTransaction {
    fn drop(&mut self) {
        if self.sound || self.in_memory {
            return;
        }
        match self.connection.get_mut() {
            Connection::Sqlite(connection) => connection.close_on_drop(),
            Connection::Postgres(connection) => connection.close_on_drop(),
        }
    }
}

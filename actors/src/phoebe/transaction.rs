//! The one way in which phoebe's databases are written: a transaction on a connection of its own, which goes back to use only when all of it
//! was committed or cleanly rolled back. After a failure the connection is closed: SQLite rolls back by itself when a disk is full, and who
//! went on with such a connection would be told that rows were kept that nobody ever commits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{self, AssertSqlSafe, Executor, Postgres, Sqlite};
use sea_orm::{ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, SqlErr, Statement};
use sea_query_sqlx::SqlxValues;

use super::PhoebeStore;
use super::sqlite::{self, DatabaseFile, FileState};

enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// Why nothing more may be written in a transaction.
#[derive(Debug, Clone)]
struct Failure {
    reason: String,
    /// The database refused a row and stands as before: the connection may be used again once it was rolled back.
    harmless: bool,
}

/// A transaction that writes. Dropped without [`commit`](Self::commit) or [`rollback`](Self::rollback), it closes its connection.
pub(crate) struct WriteTransaction {
    connection: tokio::sync::Mutex<Connection>,
    backend: DbBackend,
    file: Option<Arc<DatabaseFile>>,
    /// How long one statement may take.
    patience: Duration,
    failure: Mutex<Option<Failure>>,
    /// The connection may be used again.
    sound: bool,
    /// The database is in memory and would be lost with its only connection; whoever gets it next rolls it back.
    in_memory: bool,
}

impl PhoebeStore {
    /// Begins to write. On SQLite writers wait for each other here, so that none is overtaken after it has read.
    ///
    /// # Errors
    /// No connection is to be had, or the database's file was removed or replaced.
    pub(crate) async fn begin(&self) -> Result<WriteTransaction, DbErr> {
        if let Some(file) = &self.file {
            file.check()?;
        }
        let backend = self.writer.get_database_backend();
        let connection = match backend {
            DbBackend::Postgres => Connection::Postgres(self.writer.get_postgres_connection_pool().acquire().await.map_err(acquiring)?),
            _ => Connection::Sqlite(self.writer.get_sqlite_connection_pool().acquire().await.map_err(acquiring)?),
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

/// Runs `$work` with the statement as `$query`, on whichever database the transaction is.
macro_rules! on_either {
    ($self:ident, $statement:ident, |$query:ident, $connection:ident| $work:expr) => {
        $self
            .attempt(async {
                let values = SqlxValues($statement.values.unwrap_or(sea_orm::Values(Vec::new())));
                let sql = AssertSqlSafe($statement.sql);
                match &mut *$self.connection.lock().await {
                    Connection::Sqlite(connection) => {
                        let ($query, $connection) = (sqlx::query_with(sql, values), &mut **connection);
                        $work
                    }
                    Connection::Postgres(connection) => {
                        let ($query, $connection) = (sqlx::query_with(sql, values), &mut **connection);
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
        on_either!(self, statement, |query, connection| query.execute(connection).await.map(ExecResult::from))
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.attempt(self.execute_text(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        on_either!(self, statement, |query, connection| query.fetch_optional(connection).await.map(|row| row.map(QueryResult::from)))
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        on_either!(self, statement, |query, connection| {
            query.fetch_all(connection).await.map(|rows| rows.into_iter().map(QueryResult::from).collect())
        })
    }
}

impl WriteTransaction {
    /// Commits. What was written is on record when this answers `Ok`, and only then may it be acknowledged.
    ///
    /// # Errors
    /// A statement failed before, or the database did not commit, or not into the file that has the database's name.
    pub(crate) async fn commit(mut self) -> Result<(), DbErr> {
        self.execute_unprepared("COMMIT").await?;
        self.is_committed("after its commit").await?;
        self.sound = true;
        Ok(())
    }

    /// Rolls back; where that fails, or a statement had failed for more than a row, the connection is closed, which rolls back too.
    pub(crate) async fn rollback(mut self) {
        let harmless = self.failure().take().is_none_or(|failure| failure.harmless);
        let rolled_back = self.execute_unprepared("ROLLBACK").await.is_ok() && self.is_committed("after it was rolled back").await.is_ok();
        self.sound = harmless && rolled_back;
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn execute_text(&self, sql: &str) -> Result<ExecResult, sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &mut *self.connection.lock().await {
            Connection::Sqlite(connection) => (&mut **connection).execute(sql).await.map(ExecResult::from),
            Connection::Postgres(connection) => (&mut **connection).execute(sql).await.map(ExecResult::from),
        }
    }

    /// One statement, within the time that it may take. Once one failed, the others are refused: on PostgreSQL they would be, too, and SQLite
    /// may have rolled back what came before.
    async fn attempt<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>> + Send) -> Result<T, DbErr> {
        let given_up = Failure { reason: "a statement was given up".to_owned(), harmless: false };
        let earlier = self.failure().replace(given_up);
        if let Some(earlier) = earlier {
            let refused = DbErr::Custom(format!("the transaction failed before: {}", earlier.reason));
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
                let harmless = matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)));
                (error, harmless)
            }
            Err(_) => (DbErr::Custom(format!("the database did not answer in {} ms", self.patience.as_millis())), false),
        };
        *self.failure() = Some(Failure { reason: error.to_string(), harmless });
        Err(error)
    }

    /// That nothing is left to be committed on the connection, and that it writes into the file that has the database's name.
    async fn is_committed(&self, when: &str) -> Result<(), DbErr> {
        if let Connection::Sqlite(connection) = &mut *self.connection.lock().await {
            let FileState { autocommit, moved } = sqlite::standing(connection).await.map_err(acquiring)?;
            if !autocommit {
                return Err(DbErr::Custom(format!("the connection was in a transaction {when}: nothing was recorded, it is closed")));
            }
            if moved && self.file.is_some() {
                let lost = "the database file was removed or replaced: what is written now would be lost; put it back, or restart Nyx";
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

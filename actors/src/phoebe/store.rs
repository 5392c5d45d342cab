//! Phoebe's operations on a SQLite or PostgreSQL database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use nyx_migrations::Migrator;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, Executor};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, RuntimeErr,
    TransactionTrait,
};
use sea_orm_migration::MigratorTrait;

use super::options::PhoebeOptions;
use super::search::vector_extension;
use super::sqlite::{self, DatabaseFile};
use super::write_check::WriteCheck;
use crate::NyxError;

/// PostgreSQL advisory lock, shared by all Nyx processes, held during migrations.
const MIGRATION_LOCK: i64 = 0x6e79_7870_686f;
/// One connection to hold that lock, one to migrate.
const LEAST_CONNECTIONS: u32 = 2;
const MIGRATION_TRIES: usize = 20;
const OPENING_TRIES: usize = 100;
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);

/// A connected phoebe database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PhoebeStore {
    /// Written only through [`begin`](Self::begin).
    pub(super) writer: DatabaseConnection,
    /// Read connections: on SQLite separate and read-only; on PostgreSQL the same pool as `writer`.
    /// An in-memory SQLite database uses its only connection.
    pub(super) reader: DatabaseConnection,
    /// The database file; SQLite only.
    pub(super) file: Option<Arc<DatabaseFile>>,
    /// Time limit of one statement of a write transaction.
    pub(super) patience: Duration,
    pub(super) readiness: Arc<WriteCheck>,
}

impl PhoebeStore {
    /// Connects and migrates the schema.
    ///
    /// # Errors
    /// The database cannot be reached (the message contains its URL without the password) or
    /// migrated.
    pub async fn connect(options: &PhoebeOptions, data_dir: &Path) -> Result<Self, NyxError> {
        let store = Self::open(options, data_dir).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Connects without migrating the schema.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn open(options: &PhoebeOptions, data_dir: &Path) -> Result<Self, NyxError> {
        let url = options.url_in(data_dir);
        let named = |error: DbErr| {
            DbErr::Custom(format!("cannot connect to {url}: {}", url.scrub(&error.to_string())))
        };
        let timeout = Duration::from_millis(options.acquire_timeout_ms);
        // set at the handshake, so that it applies to every connection of the pool
        let statement_timeout = Some(Duration::from_millis(options.statement_timeout_ms));
        let mut settings = url.connect_options(statement_timeout).map_err(named)?;
        settings.acquire_timeout(timeout).connect_timeout(timeout).sqlx_logging(false);
        // a limit on the client side too, in case the database hangs or has no statement time-out
        let patience = timeout + Duration::from_millis(options.statement_timeout_ms);
        let readiness = Arc::new(WriteCheck::new());
        if url.is_sqlite() {
            vector_extension::register();
            let (writer, file) =
                open_sqlite(settings, url.expose(), timeout).await.map_err(named)?;
            if file.is_none() {
                return Ok(Self { reader: writer.clone(), writer, file, patience, readiness });
            }
            let mut settings = url.connect_options(None).map_err(named)?;
            settings.acquire_timeout(timeout).max_connections(4).sqlx_logging(false);
            settings
                .map_sqlx_sqlite_opts(move |sqlite| sqlite.read_only(true).busy_timeout(timeout));
            let reader = connect_sqlite(settings).await.map_err(named)?;
            return Ok(Self { writer, reader, file, patience, readiness });
        }
        settings.max_connections(options.max_connections.max(LEAST_CONNECTIONS));
        let writer = Database::connect(settings).await.map_err(named)?;
        Ok(Self { reader: writer.clone(), writer, file: None, patience, readiness })
    }

    /// Migrates the schema; several processes may do so concurrently.
    ///
    /// # Errors
    /// The database returns an error.
    pub async fn migrate(&self) -> Result<(), NyxError> {
        if self.writer.get_database_backend() != DbBackend::Postgres {
            return self.migrate_sqlite().await;
        }
        // the lock is held by this transaction; the migrations run on another connection
        let lock = self.writer.begin().await?;
        // another process may migrate for longer than the statement time-out
        lock.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
        lock.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")).await?;
        let migrated = Migrator::up(&self.writer, None).await;
        lock.commit().await?;
        Ok(migrated?)
    }

    /// SQLite has no advisory lock: a process that loses the race for a migration retries and finds
    /// it applied.
    async fn migrate_sqlite(&self) -> Result<(), NyxError> {
        let mut tries = 0;
        loop {
            match Migrator::up(&self.writer, None).await {
                Ok(()) => return Ok(()),
                Err(error) if tries == MIGRATION_TRIES => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "another process may be migrating; retrying"),
            }
            tries += 1;
            tokio::time::sleep(MIGRATION_PAUSE).await;
        }
    }

    /// The number of migrations that have not been applied.
    ///
    /// # Errors
    /// The database returns an error.
    pub async fn pending_migrations(&self) -> Result<usize, NyxError> {
        Ok(Migrator::get_pending_migrations(&self.writer).await?.len())
    }

    /// `sqlite` or `postgres`.
    pub fn backend(&self) -> &'static str {
        if self.writer.get_database_backend() == DbBackend::Postgres {
            "postgres"
        } else {
            "sqlite"
        }
    }

    /// For reads that must see the latest writes; writes use [`begin`](Self::begin).
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

    /// Closes the connections; acknowledged writes are already on disk.
    pub async fn close(&self) {
        for connection in [&self.reader, &self.writer] {
            if let Err(error) = connection.clone().close().await {
                tracing::warn!(%error, "closing the database failed");
            }
        }
    }
}

/// Opens the write connection of a SQLite database, and its file; an in-memory database has none.
async fn open_sqlite(
    mut settings: ConnectOptions,
    url: &str,
    timeout: Duration,
) -> Result<(DatabaseConnection, Option<Arc<DatabaseFile>>), DbErr> {
    let configured = move |sqlite: SqliteConnectOptions| {
        // FULL: acknowledged decisions survive a machine crash
        let sqlite =
            sqlite.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        // deleted content is overwritten
        sqlite.busy_timeout(timeout).foreign_keys(true).pragma("secure_delete", "ON")
    };
    // one writer: SQLite allows no more, and waiting for a connection is fairer than its busy loop
    settings.max_connections(1).min_connections(1);
    if url.contains(":memory:") || url.contains("mode=memory") {
        // an in-memory database is lost with its connection, so the connection is kept
        settings.idle_timeout(None).max_lifetime(None);
        settings.map_sqlx_sqlite_opts(move |sqlite| configured(sqlite).create_if_missing(true));
        settings.map_sqlx_sqlite_before_acquire(|connection, _| {
            Box::pin(async move {
                if !sqlite::standing(connection).await?.autocommit {
                    connection.execute("ROLLBACK").await?;
                }
                Ok(true)
            })
        });
        return Ok((connect_sqlite(settings).await?, None));
    }
    let options: SqliteConnectOptions =
        url.parse().map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))))?;
    if !options.get_filename().exists() {
        // created only here: connections opened later must not create an empty database where the
        // file was removed
        let mut create = settings.clone();
        create.map_sqlx_sqlite_opts(move |sqlite| configured(sqlite).create_if_missing(true));
        connect_sqlite(create).await?.close().await?;
    }
    let file = Arc::new(DatabaseFile::at(options.get_filename()));
    settings.map_sqlx_sqlite_opts(move |sqlite| configured(sqlite).create_if_missing(false));
    let hooked = Arc::clone(&file);
    settings.map_sqlx_sqlite_pool_opts(move |pool| {
        let (opened, taken) = (Arc::clone(&hooked), Arc::clone(&hooked));
        let opened_elsewhere =
            || sqlx::Error::Io(std::io::Error::other("the database file was removed or replaced"));
        pool.after_connect(move |connection, _| {
            let file = Arc::clone(&opened);
            Box::pin(async move {
                if file.opened(connection).await? { Ok(()) } else { Err(opened_elsewhere()) }
            })
        })
        .before_acquire(move |connection, _| {
            let file = Arc::clone(&taken);
            Box::pin(async move { file.admits(connection).await })
        })
    });
    Ok((connect_sqlite(settings).await?, Some(file)))
}

/// Connects, and retries while the database is locked: when several processes open a new database
/// concurrently, one switches its journal to WAL, and the others get "database is locked"
/// immediately, regardless of the busy time-out.
async fn connect_sqlite(settings: ConnectOptions) -> Result<DatabaseConnection, DbErr> {
    let mut tries = 0;
    loop {
        match Database::connect(settings.clone()).await {
            Err(error)
                if tries < OPENING_TRIES && error.to_string().contains("database is locked") =>
            {
                tracing::debug!(%error, "another process may be opening the database; retrying");
            }
            outcome => return outcome,
        }
        tries += 1;
        tokio::time::sleep(MIGRATION_PAUSE).await;
    }
}

/// The current time, truncated to the precision that both databases store.
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

//! Adapters on record: each one, the generations of each specialist, and canaries.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult,
    IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, SqlErr,
};
use serde::Serialize;

use super::entities::{adapter, canary, generation};
use crate::NyxError;
use crate::phoebe::{PhoebeStore, now};

/// Retries when another process made a generation at the same time.
const TRIES: usize = 50;

/// The state of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterStatus {
    /// Stored, and not promoted yet.
    Candidate,
    /// Used for a share of the requests.
    Canary,
    Live,
    /// Was active before, or was not promoted.
    Retired,
    /// Its files are missing or changed.
    Bad,
}

impl AdapterStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Canary => "canary",
            Self::Live => "live",
            Self::Retired => "retired",
            Self::Bad => "bad",
        }
    }

    fn parse(text: &str) -> Result<Self, DbErr> {
        let known = [Self::Candidate, Self::Canary, Self::Live, Self::Retired, Self::Bad];
        known
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| DbErr::Type(format!("an adapter's status is {text:?}")))
    }
}

/// An adapter on record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterRecord {
    pub id: String,
    pub specialist: String,
    pub base_sha256: String,
    /// The last generation that it was promoted as; 0: never.
    pub generation: u64,
    pub bytes: u64,
    pub status: AdapterStatus,
    pub training_run: Option<String>,
    pub created_at: DateTime<Utc>,
    pub promoted_at: Option<DateTime<Utc>>,
    pub retired_at: Option<DateTime<Utc>>,
}

impl TryFrom<adapter::Model> for AdapterRecord {
    type Error = DbErr;

    fn try_from(row: adapter::Model) -> Result<Self, DbErr> {
        let (generation, bytes) = (row.generation.cast_unsigned(), row.bytes.cast_unsigned());
        let (id, specialist, base_sha256, status) =
            (row.id, row.specialist, row.base_sha256, AdapterStatus::parse(&row.status)?);
        let (created_at, promoted_at, retired_at) =
            (row.created_at, row.promoted_at, row.retired_at);
        Ok(Self {
            id,
            specialist,
            base_sha256,
            generation,
            bytes,
            status,
            training_run: row.training_run,
            created_at,
            promoted_at,
            retired_at,
        })
    }
}

/// The origin of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationKind {
    /// From the specialist's file, as the first generation.
    Configured,
    Promoted,
    /// A return to an earlier adapter, under a new number.
    RolledBack,
}

impl GenerationKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// A generation of a specialist.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    pub specialist: String,
    /// Increases by one; 0 is the base model before any promotion.
    pub generation: u64,
    /// `None` is the base.
    pub adapter: Option<String>,
    pub kind: GenerationKind,
    pub reason: String,
    pub at: DateTime<Utc>,
}

impl TryFrom<generation::Model> for Generation {
    type Error = DbErr;

    fn try_from(row: generation::Model) -> Result<Self, DbErr> {
        let known =
            [GenerationKind::Configured, GenerationKind::Promoted, GenerationKind::RolledBack];
        let kind = known.into_iter().find(|kind| kind.as_str() == row.kind);
        let kind =
            kind.ok_or_else(|| DbErr::Type(format!("a generation's kind is {:?}", row.kind)))?;
        let (specialist, generation) = (row.specialist, row.generation.cast_unsigned());
        Ok(Self {
            specialist,
            generation,
            adapter: row.adapter_id,
            kind,
            reason: row.reason,
            at: row.at,
        })
    }
}

/// An adapter that is used for a share of a specialist's requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Canary {
    pub specialist: String,
    pub adapter: String,
    /// In (0, 1).
    pub share: f64,
}

/// A generation to record.
pub(super) struct NewGeneration<'a> {
    pub specialist: &'a str,
    pub adapter: Option<&'a str>,
    pub kind: GenerationKind,
    pub reason: &'a str,
    /// Recorded only if this is the newest one.
    pub after: Option<u64>,
}

#[derive(FromQueryResult)]
struct Newest {
    specialist: String,
    newest: i64,
}

/// The tables of adapters in phoebe's database.
#[derive(Debug, Clone)]
pub(super) struct Records(pub PhoebeStore);

impl Records {
    pub(super) async fn adapters(&self) -> Result<Vec<AdapterRecord>, NyxError> {
        let rows = adapter::Entity::find()
            .order_by_asc(adapter::Column::CreatedAt)
            .order_by_asc(adapter::Column::Id);
        Ok(rows
            .all(self.0.reader())
            .await?
            .into_iter()
            .map(AdapterRecord::try_from)
            .collect::<Result<_, _>>()?)
    }

    /// # Errors
    /// [`NyxError::NotFound`].
    pub(super) async fn adapter(&self, id: &str) -> Result<AdapterRecord, NyxError> {
        self.find(id)
            .await?
            .ok_or_else(|| NyxError::NotFound { what: "adapter", id: id.to_owned() })
    }

    pub(super) async fn find(&self, id: &str) -> Result<Option<AdapterRecord>, NyxError> {
        let row = adapter::Entity::find_by_id(id).one(self.0.writer()).await?;
        Ok(row.map(AdapterRecord::try_from).transpose()?)
    }

    /// An adapter that is on record already is not changed.
    pub(super) async fn add(&self, record: &AdapterRecord) -> Result<(), NyxError> {
        let row = adapter::Model {
            id: record.id.clone(),
            specialist: record.specialist.clone(),
            base_sha256: record.base_sha256.clone(),
            generation: 0,
            path: record.id.clone(),
            bytes: record.bytes.cast_signed(),
            status: record.status.as_str().to_owned(),
            training_run: record.training_run.clone(),
            created_at: record.created_at,
            promoted_at: None,
            retired_at: None,
        };
        let transaction = self.0.begin().await?;
        match row.into_active_model().insert(&transaction).await {
            Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                transaction.rollback().await;
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(transaction.commit().await?),
        }
    }

    pub(super) async fn set_status(&self, id: &str, status: AdapterStatus) -> Result<(), NyxError> {
        let transaction = self.0.begin().await?;
        set_status(&transaction, id, status).await?;
        Ok(transaction.commit().await?)
    }

    /// Each specialist's newest generation.
    pub(super) async fn newest(&self) -> Result<Vec<Generation>, NyxError> {
        let newest =
            generation::Entity::find().select_only().column(generation::Column::Specialist);
        let newest = newest
            .column_as(generation::Column::Generation.max(), "newest")
            .group_by(generation::Column::Specialist);
        let mut generations = Vec::new();
        for Newest { specialist, newest } in
            newest.into_model::<Newest>().all(self.0.reader()).await?
        {
            let row =
                generation::Entity::find_by_id((specialist, newest)).one(self.0.reader()).await?;
            generations.extend(row.map(Generation::try_from).transpose()?);
        }
        Ok(generations)
    }

    /// All generations of a specialist, oldest first.
    pub(super) async fn history(&self, specialist: &str) -> Result<Vec<Generation>, NyxError> {
        let rows = generation::Entity::find().filter(generation::Column::Specialist.eq(specialist));
        let rows = rows.order_by_asc(generation::Column::Generation).all(self.0.writer()).await?;
        Ok(rows.into_iter().map(Generation::try_from).collect::<Result<_, _>>()?)
    }

    /// Records a generation and the adapter states that follow from it.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] when another process made the one after `after`.
    pub(super) async fn generate(&self, new: &NewGeneration<'_>) -> Result<Generation, NyxError> {
        for _ in 0..TRIES {
            let newest = self.history(new.specialist).await?.pop();
            let last = newest.as_ref().map_or(0, |newest| newest.generation);
            if new.after.is_some_and(|after| after != last) {
                let (specialist, after) = (new.specialist, new.after.unwrap_or_default());
                let why = format!(
                    "{specialist} has generation {last}, expected {after}: another process was first, look again"
                );
                return Err(NyxError::Conflict(why));
            }
            let row = generation::Model {
                specialist: new.specialist.to_owned(),
                generation: (last + 1).cast_signed(),
                adapter_id: new.adapter.map(str::to_owned),
                kind: new.kind.as_str().to_owned(),
                reason: new.reason.to_owned(),
                at: now(),
            };
            let transaction = self.0.begin().await?;
            match generation::Entity::insert(row.clone().into_active_model())
                .exec_without_returning(&transaction)
                .await
            {
                Ok(_) => {}
                Err(error)
                    if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
                {
                    transaction.rollback().await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            // an adapter that failed its check stays bad
            let live = adapter::Column::Status.is_in([AdapterStatus::Live.as_str()]);
            adapter::Entity::update_many()
                .col_expr(adapter::Column::Status, Expr::value(AdapterStatus::Retired.as_str()))
                .col_expr(adapter::Column::RetiredAt, Expr::value(row.at))
                .filter(adapter::Column::Specialist.eq(new.specialist).and(live))
                .exec(&transaction)
                .await?;
            if let Some(id) = new.adapter {
                adapter::Entity::update_many()
                    .col_expr(adapter::Column::Status, Expr::value(AdapterStatus::Live.as_str()))
                    .col_expr(adapter::Column::Generation, Expr::value(row.generation))
                    .col_expr(adapter::Column::PromotedAt, Expr::value(row.at))
                    .filter(
                        adapter::Column::Id
                            .eq(id)
                            .and(adapter::Column::Specialist.eq(new.specialist)),
                    )
                    .exec(&transaction)
                    .await?;
                // an active adapter is no longer a canary
                let tried = canary::Column::Specialist
                    .eq(new.specialist)
                    .and(canary::Column::AdapterId.eq(id));
                canary::Entity::delete_many().filter(tried).exec(&transaction).await?;
            }
            transaction.commit().await?;
            return Ok(row.try_into()?);
        }
        Err(NyxError::Internal(format!(
            "{} got a new generation {TRIES} times meanwhile",
            new.specialist
        )))
    }

    pub(super) async fn canaries(&self) -> Result<Vec<Canary>, NyxError> {
        let rows = canary::Entity::find().all(self.0.reader()).await?;
        let canary = |row: canary::Model| Canary {
            specialist: row.specialist,
            adapter: row.adapter_id,
            share: row.share,
        };
        Ok(rows.into_iter().map(canary).collect())
    }

    /// Sets a specialist's canary, or clears it; the previous one returns to its earlier state.
    pub(super) async fn set_canary(
        &self,
        specialist: &str,
        new: Option<(&str, f64)>,
    ) -> Result<(), NyxError> {
        let transaction = self.0.begin().await?;
        canary::Entity::delete_many()
            .filter(canary::Column::Specialist.eq(specialist))
            .exec(&transaction)
            .await?;
        adapter::Entity::update_many()
            .col_expr(adapter::Column::Status, Expr::value(AdapterStatus::Candidate.as_str()))
            .filter(
                adapter::Column::Specialist
                    .eq(specialist)
                    .and(adapter::Column::Status.eq(AdapterStatus::Canary.as_str())),
            )
            .exec(&transaction)
            .await?;
        if let Some((id, share)) = new {
            let row = canary::Model {
                specialist: specialist.to_owned(),
                adapter_id: id.to_owned(),
                share,
                at: now(),
            };
            canary::Entity::insert(row.into_active_model())
                .exec_without_returning(&transaction)
                .await?;
            set_status(&transaction, id, AdapterStatus::Canary).await?;
        }
        Ok(transaction.commit().await?)
    }
}

async fn set_status(
    connection: &impl ConnectionTrait,
    id: &str,
    status: AdapterStatus,
) -> Result<(), NyxError> {
    let mut update = adapter::Entity::update_many()
        .col_expr(adapter::Column::Status, Expr::value(status.as_str()));
    if matches!(status, AdapterStatus::Retired | AdapterStatus::Bad) {
        update = update.col_expr(adapter::Column::RetiredAt, Expr::value(now()));
    }
    update.filter(adapter::Column::Id.eq(id)).exec(connection).await?;
    Ok(())
}

//! Phoebe's memories.

use sea_orm::sea_query::{Expr, ExprTrait, Func};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, IntoActiveModel, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    Statement, Value,
};
use uuid::Uuid;

use super::entities::decision::uuid_of;
use super::entities::memory;
use super::messages::{ListMemories, Memory, MemoryCounts, MemorySelector, Neighbour, Neighbours};
use super::store::{MAX_ROWS, PhoebeStore, check_limit};
use crate::NyxError;

/// Rows of one statement: a statement binds only so many values.
const ROWS_A_STATEMENT: usize = 500;

impl PhoebeStore {
    /// All of them or none.
    pub(super) async fn store_memories(&self, memories: Vec<Memory>) -> Result<(), NyxError> {
        check_rows("memories", memories.len())?;
        self.insert_memories(memories).await
    }

    /// The same for any number of them.
    pub(crate) async fn insert_memories(&self, memories: Vec<Memory>) -> Result<(), NyxError> {
        let transaction = self.begin().await?;
        let mut rows = memories.into_iter().map(|memory| memory::Model::from(memory).into_active_model()).peekable();
        while rows.peek().is_some() {
            let some: Vec<_> = rows.by_ref().take(ROWS_A_STATEMENT).collect();
            memory::Entity::insert_many(some).exec_without_returning(&transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    pub(crate) async fn mark_indexed(&self, ids: Vec<Uuid>) -> Result<Vec<Uuid>, NyxError> {
        let texts: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        let transaction = self.begin().await?;
        let marked = memory::Entity::update_many()
            .col_expr(memory::Column::Indexed, true.into())
            .filter(memory::Column::Id.is_in(&texts))
            .filter(memory::Column::Forgotten.eq(false))
            .exec(&transaction)
            .await?;
        transaction.commit().await?;
        if marked.rows_affected == ids.len() as u64 {
            return Ok(Vec::new());
        }
        let kept = memory::Entity::find()
            .select_only()
            .column(memory::Column::Id)
            .filter(memory::Column::Id.is_in(&texts))
            .filter(memory::Column::Forgotten.eq(false));
        let kept: Vec<String> = kept.into_tuple().all(&self.writer).await?;
        Ok(ids.into_iter().filter(|id| !kept.contains(&id.to_string())).collect())
    }

    pub(super) async fn mark_forgotten(&self, selector: MemorySelector) -> Result<u64, NyxError> {
        let mut update =
            memory::Entity::update_many().col_expr(memory::Column::Forgotten, true.into()).filter(memory::Column::Forgotten.eq(false));
        let mut one = None;
        match selector {
            MemorySelector::Id(id) => {
                update = update.filter(memory::Column::Id.eq(id.to_string()));
                one = Some(id);
            }
            MemorySelector::Ids(ids) => {
                check_rows("ids", ids.len())?;
                update = update.filter(memory::Column::Id.is_in(ids.iter().map(Uuid::to_string)));
            }
            MemorySelector::Matching { conversation, before } => {
                if let Some(conversation) = conversation {
                    update = update.filter(memory::Column::Conversation.eq(conversation));
                }
                if let Some(before) = before {
                    let columns = [memory::Column::HappenedAt, memory::Column::StoredAt].map(Expr::col);
                    update = update.filter(Expr::expr(Func::coalesce(columns)).lt(before));
                }
            }
            MemorySelector::StoredBefore(moment) => update = update.filter(memory::Column::StoredAt.lt(moment)),
            MemorySelector::All => {}
        }
        let transaction = self.begin().await?;
        let marked = update.exec(&transaction).await?.rows_affected;
        transaction.commit().await?;
        match one {
            Some(id) if marked == 0 => Err(NyxError::NotFound { what: "memory", id: id.to_string() }),
            _ => Ok(marked),
        }
    }

    pub(super) async fn forgotten(&self, limit: u64) -> Result<Vec<Uuid>, NyxError> {
        check_limit(limit)?;
        let forgotten = memory::Entity::find()
            .select_only()
            .column(memory::Column::Id)
            .filter(memory::Column::Forgotten.eq(true))
            .order_by_asc(memory::Column::Id)
            .limit(limit);
        // of the writer: a mark that was set a moment ago is seen
        let ids: Vec<String> = forgotten.into_tuple().all(&self.writer).await?;
        Ok(ids.iter().map(|id| uuid_of(id)).collect::<Result<_, _>>()?)
    }

    pub(super) async fn delete_forgotten(&self, ids: Vec<Uuid>) -> Result<(), NyxError> {
        let transaction = self.begin().await?;
        memory::Entity::delete_many()
            .filter(memory::Column::Forgotten.eq(true))
            .filter(memory::Column::Id.is_in(ids.iter().map(Uuid::to_string)))
            .exec(&transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    pub(crate) async fn memories(&self, query: ListMemories) -> Result<Vec<Memory>, NyxError> {
        check_limit(query.limit)?;
        let mut select =
            memory::Entity::find().filter(memory::Column::Forgotten.eq(false)).order_by_asc(memory::Column::Id).limit(query.limit);
        if query.unindexed_only {
            select = select.filter(memory::Column::Indexed.eq(false));
        }
        if let Some(after) = query.after {
            select = select.filter(memory::Column::Id.gt(after.to_string()));
        }
        let rows = select.all(&self.reader).await?;
        Ok(rows.into_iter().map(Memory::try_from).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn memory_counts(&self) -> Result<MemoryCounts, NyxError> {
        let kept = || memory::Entity::find().filter(memory::Column::Forgotten.eq(false));
        let indexed = kept().filter(memory::Column::Indexed.eq(true)).count(&self.reader).await?;
        Ok(MemoryCounts { all: kept().count(&self.reader).await?, indexed })
    }

    /// One query: the conversations of `ids` are numbered, then joined with themselves by number.
    pub(super) async fn neighbours(&self, request: Neighbours) -> Result<Vec<Neighbour>, NyxError> {
        if request.ids.is_empty() {
            return Ok(Vec::new());
        }
        check_rows("ids", request.ids.len())?;
        let places: Vec<String> = (3..3 + request.ids.len()).map(|number| format!("${number}")).collect();
        let ids = places.join(", ");
        // a memory's moment is when it happened, else when it was stored; turns of one moment stand in the order of their ids
        let sql = format!(
            "WITH turns AS (\
               SELECT id, conversation, \
                 ROW_NUMBER() OVER (PARTITION BY conversation ORDER BY COALESCE(happened_at, stored_at), id) AS place \
               FROM nyx_subjective_memory \
               WHERE NOT forgotten AND conversation IN (SELECT conversation FROM nyx_subjective_memory WHERE id IN ({ids}))\
             ) \
             SELECT memory.*, asked.id AS asked_id, near.place - asked.place AS distance \
             FROM turns asked \
             JOIN turns near ON near.conversation = asked.conversation AND near.id <> asked.id \
               AND near.place BETWEEN asked.place - $1 AND asked.place + $2 \
             JOIN nyx_subjective_memory memory ON memory.id = near.id \
             WHERE asked.id IN ({ids}) \
             ORDER BY asked.id, near.place"
        );
        let bounds = [request.before, request.after].map(|count| Value::from(i64::from(count)));
        let values = bounds.into_iter().chain(request.ids.iter().map(|id| Value::from(id.to_string())));
        let statement = Statement::from_sql_and_values(self.reader.get_database_backend(), sql, values);
        let mut found = Vec::new();
        for row in self.reader.query_all_raw(statement).await? {
            let memory = memory::Model::from_query_result(&row, "")?.try_into()?;
            found.push(Neighbour { of: uuid_of(&row.try_get::<String>("", "asked_id")?)?, distance: row.try_get("", "distance")?, memory });
        }
        Ok(found)
    }
}

fn check_rows(param: &str, rows: usize) -> Result<(), NyxError> {
    if rows as u64 <= MAX_ROWS {
        return Ok(());
    }
    Err(NyxError::invalid(param, format!("{param} are {rows}, expected at most {MAX_ROWS}")))
}

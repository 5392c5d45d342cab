//! Queries over memories.

use nyx_domain::Memory;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, Statement, Value,
};
use uuid::Uuid;

use super::entities::memory;
use super::limit::{MAX_ROWS, check_limit};
use super::messages::{ListMemories, Neighbour, Neighbours};
use super::store::PhoebeStore;
use crate::NyxError;

impl PhoebeStore {
    pub(crate) async fn memories(&self, query: ListMemories) -> Result<Vec<Memory>, NyxError> {
        check_limit(query.limit)?;
        let mut select = memory::Entity::find()
            .filter(memory::Column::Tenant.eq(query.tenant))
            .order_by_asc(memory::Column::Id)
            .limit(query.limit);
        if let Some(after) = query.after {
            select = select.filter(memory::Column::Id.gt(after.to_string()));
        }
        let rows = select.all(&self.reader).await?;
        Ok(rows.into_iter().map(Memory::try_from).collect::<Result<_, _>>()?)
    }

    /// The tenants that have memories.
    ///
    /// # Errors
    /// The database query fails.
    pub async fn memory_tenants(&self) -> Result<Vec<String>, NyxError> {
        let tenants = memory::Entity::find()
            .select_only()
            .column(memory::Column::Tenant)
            .distinct()
            .order_by_asc(memory::Column::Tenant);
        Ok(tenants.into_tuple().all(&self.reader).await?)
    }

    /// The number of memories of a tenant.
    ///
    /// # Errors
    /// The database query fails.
    pub async fn memory_count(&self, tenant: &str) -> Result<u64, NyxError> {
        Ok(memory::Entity::find()
            .filter(memory::Column::Tenant.eq(tenant))
            .count(&self.reader)
            .await?)
    }

    /// Costs two short index reads per memory, independent of the length of its conversation.
    pub(crate) async fn neighbours(&self, request: Neighbours) -> Result<Vec<Neighbour>, NyxError> {
        let Neighbours { tenant, mut ids, before, after } = request;
        check_rows("ids", ids.len())?;
        ids.sort_unstable();
        ids.dedup();
        let texts = ids.iter().map(Uuid::to_string);
        let select = memory::Entity::find()
            .filter(memory::Column::Tenant.eq(&tenant))
            .filter(memory::Column::Id.is_in(texts));
        let mut found = Vec::new();
        for row in select.order_by_asc(memory::Column::Id).all(&self.reader).await? {
            let Some(conversation) = row.conversation.clone() else { continue };
            let turn = Memory::try_from(row)?;
            let place = [
                tenant.clone().into(),
                conversation.into(),
                turn.at().into(),
                turn.id.to_string().into(),
            ];
            let mut earlier = self.beside(&place, false, before).await?;
            earlier.reverse();
            let later = self.beside(&place, true, after).await?;
            let distances = (-(earlier.len() as i64)..0).chain(1..);
            let beside = distances.zip(earlier.into_iter().chain(later));
            found.extend(beside.map(|(distance, memory)| Neighbour {
                of: turn.id,
                distance,
                memory,
            }));
        }
        Ok(found)
    }

    /// The turns after (or before) a position in a conversation, given as tenant, conversation,
    /// time and id. A memory's time is when its event happened, else when it was stored; turns with
    /// the same time are ordered by id.
    async fn beside(
        &self,
        place: &[Value; 4],
        later: bool,
        count: u32,
    ) -> Result<Vec<Memory>, NyxError> {
        let (than, order) = if later { (">", "ASC") } else { ("<", "DESC") };
        let sql = format!(
            "SELECT * FROM nyx_subjective_memory WHERE tenant = $1 AND conversation = $2 \
             AND COALESCE(happened_at, stored_at) {than}= $3 AND (COALESCE(happened_at, stored_at) {than} $3 OR id {than} $4) \
             ORDER BY COALESCE(happened_at, stored_at) {order}, id {order} LIMIT {count}"
        );
        let statement = Statement::from_sql_and_values(
            self.reader.get_database_backend(),
            sql,
            place.iter().cloned(),
        );
        let rows = self.reader.query_all_raw(statement).await?;
        Ok(rows
            .iter()
            .map(|row| Memory::try_from(memory::Model::from_query_result(row, "")?))
            .collect::<Result<_, _>>()?)
    }
}

fn check_rows(param: &str, rows: usize) -> Result<(), NyxError> {
    if rows as u64 <= MAX_ROWS {
        return Ok(());
    }
    Err(NyxError::invalid(param, format!("{param} are {rows}, expected at most {MAX_ROWS}")))
}

//! Phoebe's memories.

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Statement, Value,
};

use super::entities::decision::uuid_of;
use super::entities::memory;
use super::messages::{ListMemories, Memory, Neighbour, Neighbours};
use super::store::{MAX_ROWS, PhoebeStore, check_limit};
use crate::NyxError;

impl PhoebeStore {
    pub(crate) async fn memories(&self, query: ListMemories) -> Result<Vec<Memory>, NyxError> {
        check_limit(query.limit)?;
        let mut select =
            memory::Entity::find().filter(memory::Column::Tenant.eq(query.tenant)).order_by_asc(memory::Column::Id).limit(query.limit);
        if let Some(after) = query.after {
            select = select.filter(memory::Column::Id.gt(after.to_string()));
        }
        let rows = select.all(&self.reader).await?;
        Ok(rows.into_iter().map(Memory::try_from).collect::<Result<_, _>>()?)
    }

    /// The tenants that have memories.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn memory_tenants(&self) -> Result<Vec<String>, NyxError> {
        let tenants = memory::Entity::find().select_only().column(memory::Column::Tenant).distinct().order_by_asc(memory::Column::Tenant);
        Ok(tenants.into_tuple().all(&self.reader).await?)
    }

    /// How many memories a tenant has.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn memory_count(&self, tenant: &str) -> Result<u64, NyxError> {
        Ok(memory::Entity::find().filter(memory::Column::Tenant.eq(tenant)).count(&self.reader).await?)
    }

    /// One query: the conversations of `ids` are numbered, then joined with themselves by number.
    pub(crate) async fn neighbours(&self, request: Neighbours) -> Result<Vec<Neighbour>, NyxError> {
        if request.ids.is_empty() {
            return Ok(Vec::new());
        }
        check_rows("ids", request.ids.len())?;
        let places: Vec<String> = (4..4 + request.ids.len()).map(|number| format!("${number}")).collect();
        let ids = places.join(", ");
        // a memory's moment is when it happened, else when it was stored; turns of one moment stand in the order of their ids
        let sql = format!(
            "WITH turns AS (\
               SELECT id, conversation, \
                 ROW_NUMBER() OVER (PARTITION BY conversation ORDER BY COALESCE(happened_at, stored_at), id) AS place \
               FROM nyx_subjective_memory \
               WHERE tenant = $3 AND conversation IN (SELECT conversation FROM nyx_subjective_memory WHERE tenant = $3 AND id IN ({ids}))\
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
        let values =
            bounds.into_iter().chain([Value::from(request.tenant)]).chain(request.ids.iter().map(|id| Value::from(id.to_string())));
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

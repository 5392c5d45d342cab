//! Decisions with an outcome or feedback.

use std::collections::BTreeMap;

use nyx_domain::{Decision, Feedback, FeedbackKind};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::entities::{decision, feedback};
use super::store::PhoebeStore;
use crate::NyxError;

/// Maximum number of feedback entries read, newest first.
const MOST: u64 = 20_000;
/// Maximum number of ids bound to one statement.
const AT_ONCE: usize = 500;

impl PhoebeStore {
    /// The newest decisions with feedback, oldest first, each with the entry in effect: the last
    /// outcome, else the last feedback.
    pub(crate) async fn judged(&self) -> Result<Vec<(Decision, Feedback)>, NyxError> {
        let rows = feedback::Entity::find()
            .order_by_desc(feedback::Column::Id)
            .limit(MOST)
            .all(&self.reader)
            .await?;
        let mut counting: BTreeMap<String, Feedback> = BTreeMap::new();
        for row in rows {
            let feedback = Feedback::try_from(row)?;
            let rank =
                |feedback: &Feedback| (feedback.kind == FeedbackKind::Outcome, feedback.revision);
            let known =
                counting.entry(feedback.decision.to_string()).or_insert_with(|| feedback.clone());
            if rank(&feedback) > rank(known) {
                *known = feedback;
            }
        }
        let mut judged = Vec::with_capacity(counting.len());
        let ids: Vec<String> = counting.keys().cloned().collect();
        for ids in ids.chunks(AT_ONCE) {
            let rows = decision::Entity::find()
                .filter(decision::Column::Id.is_in(ids))
                .order_by_asc(decision::Column::Id);
            for row in rows.all(&self.reader).await? {
                let decision = Decision::try_from(row)?;
                if let Some(feedback) = counting.remove(&decision.id.to_string()) {
                    judged.push((decision, feedback));
                }
            }
        }
        Ok(judged)
    }
}

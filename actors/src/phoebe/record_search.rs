//! Read-only text search over phoebe's own rows.

use std::collections::HashSet;

use sea_orm::sea_query::{Expr, ExprTrait, Func, LikeExpr};
use sea_orm::{ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use nyx_specialists::Evidence;

use super::entities::{decision, memory};

/// Rows looked at per table, newest first.
const SCANNED: u64 = 500;
/// Words searched for at most.
const WORDS: usize = 12;
/// Words that say nothing about what is searched for.
const STOP_WORDS: &str = " about after again all also and any are because been before being between but can could did does doing down during each few for from further had has have having her here hers him his how into its itself just more most myself nor not now off once only other our ours out over own same she should some such than that the their theirs them then there these they this those through too under until very was were what when where which while who whom why will with would you your yours tell told true false ";

/// The words of `text` that may find something: three letters or more, no stop words, each once.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut seen = HashSet::new();
    text.split(|c: char| !c.is_alphanumeric())
        .map(str::to_lowercase)
        .filter(|word| word.chars().count() >= 3 && !STOP_WORDS.contains(&format!(" {word} ")))
        .filter(|word| seen.insert(word.clone()))
        .take(WORDS)
        .collect()
}

fn any_word(column: impl ColumnTrait, words: &[String]) -> Condition {
    words.iter().fold(Condition::any(), |condition, word| {
        // words hold letters and digits alone: nothing to escape, and they are bound, never pasted
        condition.add(Expr::expr(Func::lower(column.into_expr())).like(LikeExpr::new(format!("%{word}%"))))
    })
}

/// Share of `words` that stand in `text`, rare ones (long ones, as a rule) counting more.
fn overlap(text: &str, words: &[String]) -> f64 {
    let text = text.to_lowercase();
    let weight = |word: &String| word.chars().count() as f64;
    let found: f64 = words.iter().filter(|word| text.contains(word.as_str())).map(weight).sum();
    found / words.iter().map(weight).sum::<f64>().max(1.0)
}

/// The rows that share most words with `text`, best first; the newer of equals.
pub(super) async fn search(reader: &impl ConnectionTrait, text: &str, limit: u64) -> Result<Vec<Evidence>, DbErr> {
    let words = words(text);
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let memories = memory::Entity::find()
        .filter(any_word(memory::Column::Text, &words))
        .order_by_desc(memory::Column::Id)
        .limit(SCANNED)
        .all(reader)
        .await?;
    let decisions = decision::Entity::find()
        .filter(decision::Column::Status.eq("answered"))
        .filter(Condition::any().add(any_word(decision::Column::Question, &words)).add(any_word(decision::Column::Answer, &words)))
        .order_by_desc(decision::Column::Id)
        .limit(SCANNED)
        .all(reader)
        .await?;
    let mut found: Vec<Evidence> = memories
        .into_iter()
        .map(|row| Evidence {
            id: format!("memory:{}", row.id),
            score: overlap(&row.text, &words),
            text: row.text,
            source: "nyx_subjective_memory".into(),
            speaker: row.speaker,
            when: row.happened_at,
            context: vec![],
        })
        .chain(decisions.into_iter().map(|row| {
            let text = format!("Asked: {} Answered by {}: {}", row.question, row.specialist, row.answer);
            Evidence {
                id: format!("decision:{}", row.id),
                score: overlap(&text, &words),
                text,
                source: "nyx_synthetic_specialist_queries".into(),
                speaker: None,
                when: Some(row.asked_at),
                context: vec![],
            }
        }))
        .collect();
    // stable: the newest first among equals
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

//! Facts in tables: which table a statement is about, what to ask of it, and what the answer says about the statement. Pure: who asks the database is
//! elsewhere.

mod candidates;
mod claims;
mod cues;
mod judge;
mod lexicon;
mod plan;
mod rank;
mod run;
mod table;
mod text;

pub use candidates::{Candidate, Claim, Reading};
pub use cues::{Comparative, Cues, Span, Superlative};
pub use judge::{FEATURES, FactJudge, Fit, Judged, Judgement, Statement, features, fit, learn};
pub use lexicon::{Choice, Figure, Lexicon, Link, Linked, Mention};
pub use plan::{Aggregate, Compare, Filter, Op, Operand, Order, Plan, Value};
pub use rank::{TableIndex, bare_statement};
pub use run::{Answer, holds, rows, run, value};
pub use table::{Column, FactTable, Kind, infer};
pub use text::{date, folded, is_blank, number};

/// The judge that comes with Nyx, inside the binary.
pub const SHIPPED_JUDGE: &str = include_str!("../../learned/facts.json");

//! Tables of facts, and the rows of them that fit a question best. Pure: who reads the databases is elsewhere.

mod index;
mod table;

pub use index::{FoundRow, RowIndex};
pub use table::{Column, FactTable, Kind, infer};

//! Fact tables, and search for the rows that best match a question. Pure: the databases are read
//! elsewhere.

mod index;
mod table;

pub use index::{FoundRow, RowIndex};
pub use table::{Column, FactTable, Kind, infer};

//! A table of facts: named columns with kinds, and rows of cells as text.

use chrono::{DateTime, NaiveDate};
use serde::{Deserialize, Serialize};

/// The kind of values in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A whole number.
    Integer,
    /// A number.
    Real,
    /// A date.
    Date,
    /// A text.
    Text,
}

impl Kind {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Real => "real",
            Self::Date => "date",
            Self::Text => "text",
        }
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub kind: Kind,
}

/// A registered table with its first rows, or all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct FactTable {
    /// The table's name.
    pub name: String,
    /// One-line description.
    pub caption: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// `[rows][columns]`, as written.
    pub rows: Vec<Vec<String>>,
}

/// The kind of a column with these cells: the narrowest that fits every non-empty cell. Numbers are
/// in JSON syntax, dates in ISO 8601 and RFC 3339; locale-specific formats are text.
pub fn infer<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> Kind {
    let held = cells.map(str::trim).filter(|cell| !cell.is_empty());
    let all = |is: &dyn Fn(&str) -> bool| held.clone().all(is);
    if held.clone().next().is_none() {
        Kind::Text
    } else if all(&|cell| cell.parse::<i64>().is_ok()) {
        Kind::Integer
    } else if all(&|cell| cell.parse::<f64>().is_ok_and(f64::is_finite)) {
        Kind::Real
    } else if all(&|cell| {
        cell.parse::<NaiveDate>().is_ok() || DateTime::parse_from_rfc3339(cell).is_ok()
    }) {
        Kind::Date
    } else {
        Kind::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_the_narrowest_that_every_cell_has() {
        for (cells, expected) in [
            (&["1", "-2000", ""][..], Kind::Integer),
            (&["1", "2.5", "1e3"], Kind::Real),
            (&["2000-06-01", "2000-06-02T10:00:00Z", ""], Kind::Date),
            (&["1", "two or so", "3"], Kind::Text),
            (&["1", "nan"], Kind::Text),
            (&["1", "2000-06-01"], Kind::Text),
            (&["", " "], Kind::Text),
            (&[], Kind::Text),
        ] {
            assert_eq!(infer(cells.iter().copied()), expected, "{cells:?}");
        }
    }
}

//! A table as facts are read from it: named columns with kinds, and the distinct texts of its cells.

use serde::{Deserialize, Serialize};

use super::text::{date, is_blank, number};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Integer,
    Real,
    Date,
    Text,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Real => "real",
            Self::Date => "date",
            Self::Text => "text",
        }
    }

    /// Numbers and dates have an order; so have texts, but nobody means it.
    pub fn is_ordered(self) -> bool {
        self != Self::Text
    }

    pub fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Real)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

/// A registered table with a sample of its cells, or all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct FactTable {
    pub name: String,
    /// What it is about, in a line.
    pub caption: String,
    pub columns: Vec<Column>,
    /// `[rows][columns]`, as written.
    pub rows: Vec<Vec<String>>,
}

/// Share of a column's cells that must be of a kind for the column to be.
const SHARE: f64 = 0.8;

/// The kind of a column with these cells.
pub fn infer<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> Kind {
    let held = cells.filter(|cell| !is_blank(cell));
    let all = held.clone().count();
    let share = |count: usize| count > 0 && count as f64 >= SHARE * all as f64;
    let numbers = held.clone().filter_map(number);
    if share(numbers.clone().count()) {
        let whole = numbers.clone().all(|value| value.fract() == 0.0 && value.abs() < 9e15);
        return if whole { Kind::Integer } else { Kind::Real };
    }
    if share(held.filter(|cell| date(cell).is_some()).count()) { Kind::Date } else { Kind::Text }
}

impl FactTable {
    /// Infers the columns' kinds. Short rows are filled with empty cells, long ones cut.
    pub fn new(name: impl Into<String>, caption: impl Into<String>, columns: &[String], mut rows: Vec<Vec<String>>) -> Self {
        for row in &mut rows {
            row.resize(columns.len(), String::new());
        }
        let kind = |at: usize| infer(rows.iter().map(move |row| row[at].as_str()));
        let columns = columns.iter().enumerate().map(|(at, name)| Column { name: name.clone(), kind: kind(at) }).collect();
        Self { name: name.into(), caption: caption.into(), columns, rows }
    }

    /// The place of a column, by its name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_inferred_from_most_cells() {
        for (cells, expected) in [
            (&["1", "2,000", "-", "4th"][..], Kind::Integer),
            (&["1", "2.5"], Kind::Real),
            (&["june 1 , 2000", "june 2 , 2000", ""], Kind::Date),
            (&["1", "two or so", "3"], Kind::Text),
            (&["", "-"], Kind::Text),
            (&[], Kind::Text),
        ] {
            assert_eq!(infer(cells.iter().copied()), expected, "{cells:?}");
        }
    }

    #[test]
    fn rows_have_as_many_cells_as_there_are_columns() {
        let table = FactTable::new("t", "", &["a".into(), "b".into()], vec![vec!["1".into()], vec!["2".into(), "x".into(), "y".into()]]);
        assert_eq!(table.rows, [["1", ""], ["2", "x"]]);
        assert_eq!((table.column("b"), table.column("c")), (Some(1), None));
    }
}

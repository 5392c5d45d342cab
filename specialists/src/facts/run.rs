//! Runs plans over rows in memory: what learning needs, and the model that the databases' answers are tested against.

use std::collections::HashSet;

use super::plan::{Aggregate, Compare, Filter, Op, Operand, Plan, Value};
use super::table::{FactTable, Kind};
use super::text::{date, folded, is_blank, number, written};

/// What a plan gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Number(f64),
    /// A date, where the column is one.
    Text(String),
    /// No row passed the filters, or none of them held a value.
    Nothing,
}

impl Answer {
    /// Whether `self op other` holds; `None` where either is nothing, or they are of different kinds.
    pub fn compare(&self, op: Op, other: &Self) -> Option<bool> {
        match (self, other) {
            (Self::Number(left), Self::Number(right)) => Some(op.holds(*left, *right)),
            (Self::Text(left), Self::Text(right)) => Some(text_holds(op, left, right)),
            _ => None,
        }
    }

    fn into_value(self) -> Option<Value> {
        match self {
            Self::Number(number) => Some(Value::Number(number)),
            Self::Text(text) => Some(Value::Text(text)),
            Self::Nothing => None,
        }
    }
}

fn text_holds(op: Op, left: &str, right: &str) -> bool {
    match op {
        Op::Eq => left == right,
        Op::Ne => left != right,
        Op::Lt => left < right,
        Op::Le => left <= right,
        Op::Gt => left > right,
        Op::Ge => left >= right,
        Op::Contains => left.contains(right),
        Op::Lacks => !left.contains(right),
        Op::Begins => left.starts_with(right),
        Op::Differs => !left.starts_with(right),
    }
}

/// The value of a cell, in its column's kind; `None` where it holds none.
pub fn value(kind: Kind, cell: &str) -> Option<Value> {
    match kind {
        Kind::Integer | Kind::Real => number(cell).map(Value::Number),
        Kind::Date => date(cell).map(Value::Text),
        Kind::Text => (!is_blank(cell)).then(|| Value::Text(folded(cell))),
    }
}

fn passes(table: &FactTable, row: &[String], filter: &Filter) -> Option<bool> {
    let column = table.column(&filter.column)?;
    let cell = row.get(column)?;
    if filter.op.is_textual() {
        let wanted = match &filter.value {
            Value::Number(number) => written(*number),
            Value::Text(text) => text.clone(),
            Value::Of(_) => return Some(false),
        };
        return Some(text_holds(filter.op, &folded(cell), &wanted));
    }
    let wanted = match &filter.value {
        Value::Of(plan) => run(table, plan).into_value(),
        other => Some(other.clone()),
    };
    Some(match (value(table.columns.get(column)?.kind, cell), wanted) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => filter.op.holds(left, right),
        (Some(Value::Text(left)), Some(Value::Text(right))) => text_holds(filter.op, &left, &right),
        _ => false,
    })
}

/// The rows that pass a plan's filters, by their places.
pub fn rows(table: &FactTable, plan: &Plan) -> Vec<usize> {
    // what stands in a filter is worked out once, not once a row
    let filters: Vec<Filter> = plan.filters.iter().map(|filter| settled(table, filter)).collect();
    let passing = |row: &Vec<String>| filters.iter().all(|filter| passes(table, row, filter).unwrap_or(false));
    table.rows.iter().enumerate().filter(|(_, row)| passing(row)).map(|(at, _)| at).collect()
}

fn settled(table: &FactTable, filter: &Filter) -> Filter {
    match &filter.value {
        Value::Of(plan) => match run(table, plan).into_value() {
            Some(value) => Filter { value, ..filter.clone() },
            None => filter.clone(),
        },
        _ => filter.clone(),
    }
}

/// What the plan gives.
pub fn run(table: &FactTable, plan: &Plan) -> Answer {
    let rows = rows(table, plan);
    let Some(column) = plan.aggregate.column() else { return Answer::Number(rows.len() as f64) };
    let Some((at, kind)) = table.column(column).and_then(|at| Some((at, table.columns.get(at)?.kind))) else { return Answer::Nothing };
    let values: Vec<Value> = rows.iter().filter_map(|row| value(kind, table.rows.get(*row)?.get(at)?)).collect();
    if let Aggregate::Distinct(_) = plan.aggregate {
        let distinct: HashSet<String> = values.iter().map(|value| format!("{value:?}")).collect();
        return Answer::Number(distinct.len() as f64);
    }
    let numbers = || values.iter().filter_map(|value| if let Value::Number(number) = value { Some(*number) } else { None });
    let texts = || values.iter().filter_map(|value| if let Value::Text(text) = value { Some(text.clone()) } else { None });
    let number = match plan.aggregate {
        Aggregate::Min(_) => numbers().reduce(f64::min),
        Aggregate::Max(_) => numbers().reduce(f64::max),
        Aggregate::Sum(_) => numbers().reduce(|sum, value| sum + value),
        Aggregate::Mean(_) => numbers().reduce(|sum, value| sum + value).map(|sum| sum / values.len() as f64),
        Aggregate::Count | Aggregate::Distinct(_) | Aggregate::Rows => None,
    };
    let text = match plan.aggregate {
        Aggregate::Min(_) => texts().min(),
        Aggregate::Max(_) => texts().max(),
        _ => None,
    };
    number.map(Answer::Number).or_else(|| text.map(Answer::Text)).unwrap_or(Answer::Nothing)
}

/// Whether a comparison holds; `None` where there is nothing to compare.
pub fn holds(table: &FactTable, compare: &Compare) -> Option<bool> {
    let right = match &compare.right {
        Operand::Number(number) => Answer::Number(*number),
        Operand::Text(text) => Answer::Text(text.clone()),
        Operand::Plan(plan) => run(table, plan),
    };
    run(table, &compare.left).compare(compare.op, &right)
}

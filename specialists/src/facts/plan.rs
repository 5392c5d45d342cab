//! Typed plans: what may be asked of a table, as data. A plan names a registered table and its columns, and carries values that are bound when it
//! runs; nothing of a statement or of a model's answer ever becomes text of a query.

use serde::{Deserialize, Serialize};

use super::table::{Column, Kind};

/// How a column compares with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// The cell's text holds the value's, whatever the column's kind.
    Contains,
    /// It does not.
    Lacks,
    /// The cell's text begins with the value's.
    Begins,
    /// It does not.
    Differs,
}

impl Op {
    /// Whether `left op right` holds; for numbers and results of plans.
    pub fn holds(self, left: f64, right: f64) -> bool {
        // sums of decimals are not exact
        let near = (left - right).abs() <= 1e-6 * left.abs().max(right.abs()).max(1.0);
        match self {
            Self::Eq | Self::Contains | Self::Begins => near,
            Self::Ne | Self::Lacks | Self::Differs => !near,
            Self::Lt => left < right && !near,
            Self::Le => left < right || near,
            Self::Gt => left > right && !near,
            Self::Ge => left > right || near,
        }
    }

    pub fn negated(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Lt => Self::Ge,
            Self::Le => Self::Gt,
            Self::Gt => Self::Le,
            Self::Ge => Self::Lt,
            Self::Contains => Self::Lacks,
            Self::Lacks => Self::Contains,
            Self::Begins => Self::Differs,
            Self::Differs => Self::Begins,
        }
    }

    /// It reads the cell's text, whatever the column's kind.
    pub fn is_textual(self) -> bool {
        matches!(self, Self::Contains | Self::Lacks | Self::Begins | Self::Differs)
    }

    /// As a description of a plan writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Ne => "≠",
            Self::Lt => "<",
            Self::Le => "≤",
            Self::Gt => ">",
            Self::Ge => "≥",
            Self::Contains => "contains",
            Self::Lacks => "lacks",
            Self::Begins => "begins with",
            Self::Differs => "does not begin with",
        }
    }
}

/// What a column is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    Number(f64),
    /// Folded ([`folded`](super::text::folded)), or a date as `YYYY-MM-DD`.
    Text(String),
    /// What another plan over the same table gives: `attendance = max(attendance)`.
    Of(Box<Plan>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    pub column: String,
    pub op: Op,
    pub value: Value,
}

/// What is taken from the rows that pass the filters. One of a column leaves out cells that hold no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    Count,
    /// Different values of a column.
    Distinct(String),
    Min(String),
    Max(String),
    Sum(String),
    Mean(String),
    /// The rows themselves.
    Rows,
}

impl Aggregate {
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::Count | Self::Rows => None,
            Self::Distinct(column) | Self::Min(column) | Self::Max(column) | Self::Sum(column) | Self::Mean(column) => Some(column),
        }
    }

    /// Filter, count, min and max: what a query decides without a model.
    pub fn is_plain(&self) -> bool {
        !matches!(self, Self::Sum(_) | Self::Mean(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub column: String,
    pub descending: bool,
}

/// One read of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub table: String,
    /// All of them hold.
    pub filters: Vec<Filter>,
    pub aggregate: Aggregate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// A plan's result beside a number or another plan's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compare {
    pub left: Plan,
    pub op: Op,
    pub right: Operand,
}

impl Compare {
    /// Each plan that it asks.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        let right = match &self.right {
            Operand::Plan(plan) => Some(plan),
            Operand::Number(_) | Operand::Text(_) => None,
        };
        std::iter::once(&self.left).chain(right)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operand {
    Number(f64),
    /// A date, as `YYYY-MM-DD`.
    Text(String),
    Plan(Plan),
}

/// Plans inside plans at most.
const DEPTH: usize = 3;
/// Filters of a plan at most.
const FILTERS: usize = 32;

impl Plan {
    pub fn new(table: &str, filters: Vec<Filter>, aggregate: Aggregate) -> Self {
        Self { table: table.to_owned(), filters, aggregate, order: None, limit: None }
    }

    /// Checks it against the table that it names: its columns are there, its values fit their kinds, it is not too deep.
    ///
    /// # Errors
    /// Names what is wrong, and what there is.
    pub fn check(&self, table: &str, columns: &[Column]) -> Result<(), String> {
        self.check_at(table, columns, 0)
    }

    fn check_at(&self, table: &str, columns: &[Column], depth: usize) -> Result<(), String> {
        if self.table != table {
            return Err(format!("the plan reads table {:?}, expected {table:?}", self.table));
        }
        if depth > DEPTH {
            return Err(format!("plans stand more than {DEPTH} deep in each other"));
        }
        if self.filters.len() > FILTERS {
            return Err(format!("the plan has {} filters, expected at most {FILTERS}", self.filters.len()));
        }
        let kind = |name: &str| {
            let found = columns.iter().find(|column| column.name == name);
            found.map(|column| column.kind).ok_or_else(|| {
                let known = columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
                format!("table {table:?} has no column {name:?}; there are {known}")
            })
        };
        for Filter { column, op, value } in &self.filters {
            let kind = kind(column)?;
            match value {
                Value::Of(plan) => plan.check_at(table, columns, depth + 1)?,
                Value::Number(number) if !number.is_finite() => return Err(format!("{column:?} is compared with {number}")),
                Value::Number(number) if !kind.is_number() && !op.is_textual() => {
                    return Err(format!("{column:?} is a column of kind {}, compared with the number {number}", kind.as_str()));
                }
                Value::Text(text) if kind.is_number() && !op.is_textual() => {
                    return Err(format!("{column:?} is a column of kind {}, compared with the text {text:?}", kind.as_str()));
                }
                Value::Text(_) | Value::Number(_) => {}
            }
        }
        if let Some(name) = self.aggregate.column() {
            let kind = kind(name)?;
            let fits = match &self.aggregate {
                Aggregate::Sum(_) | Aggregate::Mean(_) => kind.is_number(),
                Aggregate::Min(_) | Aggregate::Max(_) => kind != Kind::Text,
                _ => true,
            };
            if !fits {
                return Err(format!("{name:?} is a column of kind {}, which has no {}", kind.as_str(), self.aggregate_name()));
            }
        }
        if let Some(order) = &self.order {
            kind(&order.column)?;
        }
        Ok(())
    }

    fn aggregate_name(&self) -> &'static str {
        match self.aggregate {
            Aggregate::Count => "count",
            Aggregate::Distinct(_) => "count distinct",
            Aggregate::Min(_) => "min",
            Aggregate::Max(_) => "max",
            Aggregate::Sum(_) => "sum",
            Aggregate::Mean(_) => "mean",
            Aggregate::Rows => "rows",
        }
    }

    /// It and what stands in it need only filter, count, min and max.
    pub fn is_plain(&self) -> bool {
        self.aggregate.is_plain() && self.filters.iter().all(|filter| !matches!(&filter.value, Value::Of(plan) if !plan.is_plain()))
    }

    /// As people read it: `count where opponent = "chicago bears" and attendance = (max attendance)`.
    pub fn describe(&self) -> String {
        let mut text = self.aggregate_name().to_owned();
        if let Some(column) = self.aggregate.column() {
            text = format!("{text} {column}");
        }
        for (at, Filter { column, op, value }) in self.filters.iter().enumerate() {
            let value = match value {
                Value::Number(number) => super::text::written(*number),
                Value::Text(text) => format!("{text:?}"),
                Value::Of(plan) => format!("({})", plan.describe()),
            };
            text = format!("{text} {} {column} {} {value}", if at == 0 { "where" } else { "and" }, op.as_str());
        }
        text
    }
}

impl Compare {
    pub fn is_plain(&self) -> bool {
        self.left.is_plain() && !matches!(&self.right, Operand::Plan(plan) if !plan.is_plain())
    }

    pub fn describe(&self) -> String {
        let right = match &self.right {
            Operand::Number(number) => super::text::written(*number),
            Operand::Text(text) => text.clone(),
            Operand::Plan(plan) => plan.describe(),
        };
        format!("{} {} {right}", self.left.describe(), self.op.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        [("team", Kind::Text), ("points", Kind::Integer), ("day", Kind::Date)].map(|(name, kind)| Column { name: name.into(), kind }).into()
    }

    fn filter(column: &str, op: Op, value: Value) -> Filter {
        Filter { column: column.into(), op, value }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let plan = Plan::new("games", vec![filter("points; drop table games", Op::Eq, Value::Number(1.0))], Aggregate::Count);
        let refusal = plan.check("games", &columns()).unwrap_err();
        assert!(refusal.contains("\"points; drop table games\"") && refusal.contains("team, points, day"), "{refusal}");
        let elsewhere = Plan::new("secrets", Vec::new(), Aggregate::Count).check("games", &columns()).unwrap_err();
        assert!(elsewhere.contains("\"secrets\"") && elsewhere.contains("\"games\""), "{elsewhere}");
    }

    #[test]
    fn values_fit_their_columns() {
        for (plan, fits) in [
            (Plan::new("g", vec![filter("points", Op::Gt, Value::Number(3.0))], Aggregate::Count), true),
            (Plan::new("g", vec![filter("points", Op::Gt, Value::Text("3".into()))], Aggregate::Count), false),
            (Plan::new("g", vec![filter("team", Op::Eq, Value::Number(3.0))], Aggregate::Count), false),
            (Plan::new("g", vec![filter("points", Op::Eq, Value::Number(f64::NAN))], Aggregate::Count), false),
            (Plan::new("g", Vec::new(), Aggregate::Max("team".into())), false),
            (Plan::new("g", Vec::new(), Aggregate::Max("day".into())), true),
            (Plan::new("g", Vec::new(), Aggregate::Sum("day".into())), false),
        ] {
            assert_eq!(plan.check("g", &columns()).is_ok(), fits, "{}", plan.describe());
        }
    }

    #[test]
    fn plans_are_not_endless() {
        let mut plan = Plan::new("g", Vec::new(), Aggregate::Max("points".into()));
        for _ in 0..=DEPTH {
            plan = Plan::new("g", vec![filter("points", Op::Eq, Value::Of(Box::new(plan)))], Aggregate::Max("points".into()));
        }
        assert!(plan.check("g", &columns()).is_err());
    }

    #[test]
    fn a_plan_can_be_read() {
        let most = Plan::new("g", Vec::new(), Aggregate::Max("points".into()));
        let filters = vec![filter("team", Op::Eq, Value::Text("reds".into())), filter("points", Op::Eq, Value::Of(Box::new(most)))];
        let compare = Compare { left: Plan::new("g", filters, Aggregate::Count), op: Op::Ge, right: Operand::Number(1.0) };
        assert_eq!(compare.describe(), "count where team = \"reds\" and points = (max points) ≥ 1");
        assert!(compare.is_plain());
    }
}

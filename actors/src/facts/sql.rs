//! From a typed plan to a select: identifiers come from the catalogue, values are bound.

use nyx_specialists::facts::{Aggregate, Filter, Kind, Op, Plan, Value};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, Func, IntoIden, NullOrdering, Order, Query, SelectStatement, SimpleExpr};

use super::catalogue::{Layout, Source};
use crate::NyxError;

/// Two numbers nearer than this share of the larger are one: cells are decimals, columns binary.
const NEAR: f64 = 1e-6;

/// A column of a source, as expressions.
struct Read<'a> {
    source: &'a Source,
    at: usize,
    kind: Kind,
}

impl<'a> Read<'a> {
    fn of(source: &'a Source, name: &str) -> Result<Self, NyxError> {
        let at = source.columns.iter().position(|column| column.name == name);
        let at = at.ok_or_else(|| NyxError::invalid("column", format!("table {:?} has no column {name:?}", source.name)))?;
        Ok(Self { source, at, kind: source.columns[at].kind })
    }

    /// The cell as written.
    fn text(&self) -> SimpleExpr {
        match self.source.layout {
            Layout::Imported => Expr::col(Alias::new(format!("c{}", self.at))),
            Layout::Foreign => Expr::col(Alias::new(&self.source.columns[self.at].name)).cast_as("text"),
        }
    }

    /// The cell as it is compared by `contains`.
    fn folded(&self) -> SimpleExpr {
        match self.source.layout {
            Layout::Imported => Expr::col(Alias::new(format!("f{}", self.at))),
            Layout::Foreign => Func::lower(self.text()).into(),
        }
    }

    /// The cell in its column's kind; null where it holds nothing.
    fn value(&self) -> SimpleExpr {
        if self.source.layout == Layout::Imported {
            return Expr::col(Alias::new(format!("v{}", self.at)));
        }
        match self.kind {
            Kind::Integer | Kind::Real => Expr::col(Alias::new(&self.source.columns[self.at].name)).cast_as("double precision"),
            Kind::Date => Func::cust("substr").args([self.text(), Expr::val(1), Expr::val(10)]).into(),
            Kind::Text => Func::lower(self.text()).into(),
        }
    }
}

/// The select of a plan, which has been checked against `source`. `max_rows` bounds the rows that it may return.
pub(super) fn select(source: &Source, plan: &Plan, max_rows: u64) -> Result<SelectStatement, NyxError> {
    let mut select = Query::select();
    match &source.schema {
        Some(schema) => select.from((Alias::new(schema), Alias::new(&source.table))),
        None => select.from(Alias::new(&source.table)),
    };
    for filter in &plan.filters {
        select.and_where(condition(source, filter)?);
    }
    let of = |name: &String| Read::of(source, name).map(|read| read.value());
    let result: SimpleExpr = match &plan.aggregate {
        Aggregate::Rows => {
            rows(source, plan, &mut select, max_rows)?;
            return Ok(select);
        }
        Aggregate::Count => Func::count(Expr::col(sea_orm::sea_query::Asterisk)).into(),
        Aggregate::Distinct(column) => Func::count_distinct(of(column)?).into(),
        Aggregate::Min(column) => Func::min(of(column)?).into(),
        Aggregate::Max(column) => Func::max(of(column)?).into(),
        Aggregate::Sum(column) => Func::sum(of(column)?).into(),
        Aggregate::Mean(column) => Func::avg(of(column)?).into(),
    };
    select.expr_as(result, Alias::new("result").into_iden());
    Ok(select)
}

fn rows(source: &Source, plan: &Plan, select: &mut SelectStatement, max_rows: u64) -> Result<(), NyxError> {
    if source.layout == Layout::Imported {
        select.expr_as(Expr::col(Alias::new("row")), Alias::new("row"));
    }
    for (at, column) in source.columns.iter().enumerate() {
        select.expr_as(Read { source, at, kind: column.kind }.text(), Alias::new(format!("c{at}")));
    }
    if let Some(order) = &plan.order {
        let direction = if order.descending { Order::Desc } else { Order::Asc };
        select.order_by_expr_with_nulls(Read::of(source, &order.column)?.value(), direction, NullOrdering::Last);
    }
    if source.layout == Layout::Imported {
        select.order_by(Alias::new("row"), Order::Asc);
    }
    let limit = plan.limit.filter(|limit| *limit < max_rows).unwrap_or(max_rows);
    select.limit(limit);
    Ok(())
}

fn condition(source: &Source, filter: &Filter) -> Result<SimpleExpr, NyxError> {
    let read = Read::of(source, &filter.column)?;
    let value = read.value();
    if filter.op.is_textual() {
        let wanted = match &filter.value {
            Value::Text(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Of(_) => return Err(NyxError::invalid("op", "a cell cannot contain what a plan gives")),
        };
        if let Op::Begins | Op::Differs = filter.op {
            let length = i32::try_from(wanted.chars().count()).unwrap_or(i32::MAX);
            let beginning = Expr::from(Func::cust("substr").args([read.folded(), Expr::val(1), Expr::val(length)]));
            return Ok(if filter.op == Op::Begins { beginning.eq(wanted) } else { beginning.ne(wanted) });
        }
        // PostgreSQL and SQLite name it differently
        let place = if source.postgres { "strpos" } else { "instr" };
        let place = Expr::from(Func::cust(place).args([read.folded(), Expr::val(wanted)]));
        return Ok(if filter.op == Op::Contains { place.gt(0) } else { place.eq(0) });
    }
    Ok(match &filter.value {
        Value::Number(number) => near(value, filter.op, *number),
        Value::Text(text) => compared(value, filter.op, Expr::val(text.clone())),
        Value::Of(plan) => compared(value, filter.op, Expr::from(self::select(source, plan, 1)?)),
    })
}

fn compared(left: SimpleExpr, op: Op, right: SimpleExpr) -> SimpleExpr {
    match op {
        Op::Eq | Op::Contains | Op::Begins => left.eq(right),
        Op::Ne | Op::Lacks | Op::Differs => left.ne(right),
        Op::Lt => left.lt(right),
        Op::Le => left.lte(right),
        Op::Gt => left.gt(right),
        Op::Ge => left.gte(right),
    }
}

fn near(left: SimpleExpr, op: Op, right: f64) -> SimpleExpr {
    let apart = NEAR * right.abs().max(1.0);
    match op {
        Op::Eq | Op::Contains | Op::Begins => left.between(right - apart, right + apart),
        Op::Ne | Op::Lacks | Op::Differs => left.not_between(right - apart, right + apart),
        Op::Lt => left.lt(right - apart),
        Op::Le => left.lte(right + apart),
        Op::Gt => left.gt(right + apart),
        Op::Ge => left.gte(right - apart),
    }
}

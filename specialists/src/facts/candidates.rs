//! Reads a statement as typed plans: every claim that its cues, cells, columns and numbers can be put together to, each with the share of the
//! statement that it explains.

use super::cues::{Comparative, Span, Superlative};
use super::lexicon::{Lexicon, Link, Linked};
use super::plan::{Aggregate, Compare, Filter, Op, Operand, Plan, Value};
use super::rank::is_stop;
use super::table::{FactTable, Kind};

/// What kind of claim a candidate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// A row has all of it.
    Exists,
    /// So many rows have it.
    Count,
    /// The row with it is the one with the highest or lowest value.
    Superlative,
    /// The highest or lowest value is this.
    Extreme,
    /// It is the second, third, ... highest or lowest.
    Ranked,
    /// One has more than the other, or as much.
    Versus,
    /// A value is above or below a number or a date.
    Limit,
    Sum,
    Mean,
    /// Every row has it.
    All,
    /// No other row has it.
    Only,
    /// So many different values.
    Distinct,
}

impl Claim {
    pub const ALL: [Self; 12] = [
        Self::Exists,
        Self::Count,
        Self::Superlative,
        Self::Extreme,
        Self::Ranked,
        Self::Versus,
        Self::Limit,
        Self::Sum,
        Self::Mean,
        Self::All,
        Self::Only,
        Self::Distinct,
    ];
}

/// One reading of a statement.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub claim: Claim,
    /// It holds when all of them do.
    pub compares: Vec<Compare>,
    /// The statement says that it does not hold.
    pub negated: bool,
    /// Share of the statement's words that it explains, in [0, 1].
    pub explained: f64,
    /// It rests on a cell that the table does not hold.
    pub unheld: bool,
    /// The rows that speak for or against it.
    pub rows: Plan,
    pub(super) score: f64,
}

impl Candidate {
    pub fn is_plain(&self) -> bool {
        self.compares.iter().all(Compare::is_plain)
    }

    /// What the statement says, given whether each of the comparisons holds.
    pub fn truth(&self, held: &[Option<bool>]) -> Option<bool> {
        let all = if held.contains(&Some(false)) { Some(false) } else { held.iter().copied().collect::<Option<Vec<bool>>>().map(|_| true) };
        all.map(|holds| holds != self.negated)
    }
}

/// A statement read against a table.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The likeliest first.
    pub candidates: Vec<Candidate>,
    pub linked: Linked,
}

/// Candidates that are run at most.
const MOST: usize = 16;
/// Rows for one count or another: more is no count that people write.
const MOST_COUNTED: f64 = 10_000.0;
/// Combinations of things named in one column.
const COMBINED: usize = 6;

impl Lexicon {
    /// Reads a statement, without its asking.
    pub fn read(&self, table: &FactTable, statement: &str) -> Reading {
        let linked = self.link(table, statement);
        let mut builder = Builder { table, linked: &linked, found: Vec::new() };
        builder.build();
        let mut candidates = builder.found;
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        candidates.dedup_by(|a, b| a.compares == b.compares && a.negated == b.negated);
        candidates.truncate(MOST);
        Reading { candidates, linked }
    }
}

impl Reading {
    /// The rows that the statement names, where no claim speaks for any.
    pub fn rows(&self, table: &FactTable) -> Plan {
        let links = self.linked.links.iter().filter_map(|link| link.choices.first().map(|choice| (link, choice)));
        let best = links.filter(|(_, choice)| choice.held).max_by_key(|(link, choice)| (choice.exact, link.span.end - link.span.start));
        Plan::new(&table.name, best.map(|(_, choice)| choice.filter.clone()).into_iter().collect(), Aggregate::Rows)
    }
}

/// Filters with the spans that they explain.
#[derive(Clone, Default)]
struct Scope {
    filters: Vec<Filter>,
    spans: Vec<Span>,
    columns: Vec<usize>,
    unheld: bool,
}

impl Scope {
    fn with(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }
}

struct Builder<'a> {
    table: &'a FactTable,
    linked: &'a Linked,
    found: Vec<Candidate>,
}

fn is_number_link(linked: &Linked, link: &Link) -> bool {
    linked.figures.iter().any(|figure| link.span.start == figure.at && link.span.end == figure.at + 1)
}

impl Builder<'_> {
    fn build(&mut self) {
        let all: Vec<usize> = (0..self.linked.links.len()).collect();
        self.exists(&all);
        self.counts();
        for superlative in self.linked.cues.superlatives.clone() {
            self.superlative(&superlative);
        }
        for comparative in self.linked.cues.comparatives.clone() {
            self.versus(&comparative);
            self.limit(&comparative);
        }
        self.same();
        self.totals();
        self.all();
        self.only();
        self.distinct();
    }

    /// Filters of the links, one reading each; of several in one column the first alone.
    fn scope(&self, links: impl IntoIterator<Item = usize>) -> Scope {
        let mut scope = Scope::default();
        for link in links.into_iter().filter_map(|at| self.linked.links.get(at)) {
            if let Some(choice) = link.choices.iter().find(|choice| !scope.columns.contains(&choice.column)) {
                scope.filters.push(choice.filter.clone());
                scope.columns.push(choice.column);
                scope.unheld |= !choice.held;
                scope.spans.push(link.span);
            }
        }
        scope
    }

    fn plan(&self, filters: Vec<Filter>, aggregate: Aggregate) -> Plan {
        Plan::new(&self.table.name, filters, aggregate)
    }

    fn count(&self, filters: Vec<Filter>, op: Op, number: f64) -> Compare {
        Compare { left: self.plan(filters, Aggregate::Count), op, right: Operand::Number(number) }
    }

    fn name(&self, column: usize) -> String {
        self.table.columns.get(column).map_or_else(String::new, |column| column.name.clone())
    }

    fn push(&mut self, claim: Claim, compares: Vec<Compare>, scope: &Scope, spans: &[Span], columns: &[usize], bonus: f64) {
        if compares.is_empty() {
            return;
        }
        let tokens = &self.linked.tokens;
        let mut explained = vec![false; tokens.len()];
        let mut mark = |span: Span| explained.iter_mut().take(span.end).skip(span.start).for_each(|mark| *mark = true);
        scope.spans.iter().chain(spans).chain(&self.linked.cues.negations).for_each(|span| mark(*span));
        for mention in &self.linked.mentions {
            if columns.contains(&mention.column) || scope.columns.contains(&mention.column) {
                mark(mention.span);
            }
        }
        let weight = |at: usize| {
            let token = &tokens[at];
            if token.number.is_some() {
                1.5
            } else if is_stop(&token.text) && !self.linked.cues.span_of_cues.iter().any(|cue| cue.start <= at && at < cue.end) {
                0.0
            } else {
                1.0
            }
        };
        let all: f64 = (0..tokens.len()).map(weight).sum();
        let said: f64 = (0..tokens.len()).filter(|at| explained[*at]).map(weight).sum();
        let share = if all > 0.0 { said / all } else { 0.0 };
        let negated = self.linked.cues.negated();
        let rows = self.plan(scope.filters.clone(), Aggregate::Rows);
        self.found.push(Candidate { claim, compares, negated, explained: share, unheld: scope.unheld, rows, score: share + bonus });
    }

    /// Some row has all that is named; of several things in one column, each has a row with the rest.
    fn exists(&mut self, links: &[usize]) {
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut unheld = false;
        for at in links {
            let Some(choice) = self.linked.links[*at].choices.first() else { continue };
            unheld |= !choice.held;
            match groups.iter_mut().find(|(column, _)| *column == choice.column) {
                Some((_, group)) => group.push(*at),
                None => groups.push((choice.column, vec![*at])),
            }
        }
        if groups.is_empty() {
            return;
        }
        let filter = |at: usize| self.linked.links[at].choices.first().map(|choice| choice.filter.clone());
        let mut combined: Vec<Vec<Filter>> = vec![Vec::new()];
        for (_, group) in &groups {
            let next: Vec<Vec<Filter>> = combined
                .iter()
                .flat_map(|before| group.iter().filter_map(|at| Some([before.clone(), vec![filter(*at)?]].concat())).collect::<Vec<_>>())
                .collect();
            combined = next;
            combined.truncate(COMBINED);
        }
        let compares = combined.into_iter().map(|filters| self.count(filters, Op::Ge, 1.0)).collect();
        let scope = Scope { unheld, ..self.scope(links.iter().copied()) };
        let spans: Vec<Span> = links.iter().map(|at| self.linked.links[*at].span).collect();
        self.push(Claim::Exists, compares, &scope, &spans, &[], 0.0);
        // each link's second reading
        for at in links.iter().take(6) {
            let Some(second) = self.linked.links[*at].choices.get(1) else { continue };
            let others = self.scope(links.iter().copied().filter(|other| other != at));
            if others.columns.contains(&second.column) {
                continue;
            }
            let gap = self.linked.links[*at].choices[0].score - second.score;
            let mut scope = others.with(second.filter.clone());
            scope.columns.push(second.column);
            scope.unheld |= !second.held;
            let compares = vec![self.count(scope.filters.clone(), Op::Ge, 1.0)];
            self.push(Claim::Exists, compares, &scope, &spans, &[], -0.05 - 0.1 * gap);
        }
    }

    /// The links that are not this figure.
    fn but(&self, figure: usize) -> Vec<usize> {
        let elsewhere = |at: &usize| self.linked.links.get(*at).is_some_and(|link| !(link.span.start <= figure && figure < link.span.end));
        (0..self.linked.links.len()).filter(elsewhere).collect()
    }

    fn counts(&mut self) {
        for figure in self.linked.figures.clone() {
            if figure.value.fract() != 0.0 || figure.value > MOST_COUNTED || (figure.value > 1900.0 && figure.value < 2100.0) {
                continue;
            }
            let span = Span { start: figure.at, end: figure.at + 1 };
            // "more than 3", "at least 3"
            let limit = self.linked.cues.comparatives.iter().find(|cue| cue.span.end == figure.at);
            let op = limit.map_or(Op::Eq, |cue| cue.op);
            let links = self.but(figure.at);
            let words: Vec<usize> = links.iter().copied().filter(|at| !is_number_link(self.linked, &self.linked.links[*at])).collect();
            let mut tried = vec![words];
            if tried[0] != links {
                tried.push(links);
            }
            let noun = self.linked.tokens.get(figure.at + 1).is_some_and(|token| token.number.is_none() && !is_stop(&token.text));
            let asked = self.linked.cues.counting || noun;
            for links in tried {
                let scope = self.scope(links);
                let compares = vec![self.count(scope.filters.clone(), op, figure.value)];
                let mut spans = vec![span];
                spans.extend(limit.map(|cue| cue.span));
                if noun && asked {
                    spans.push(Span { start: figure.at, end: figure.at + 2 });
                }
                let bonus = if self.linked.cues.counting {
                    0.1
                } else if figure.linked {
                    -0.15
                } else {
                    0.0
                };
                let bonus = if scope.filters.is_empty() { bonus - 0.15 } else { bonus };
                self.push(Claim::Count, compares, &scope, &spans, &[], bonus);
            }
        }
    }

    /// Ordered columns that a cue speaks of, the likeliest first: those named nearby, then those that its words hint at.
    fn measured(&self, cue: Span, headers: &[&str]) -> Vec<(usize, f64)> {
        let mut columns: Vec<(usize, f64)> = Vec::new();
        for (column, known) in self.table.columns.iter().enumerate().filter(|(_, known)| known.kind.is_ordered()) {
            let near = self.linked.mentions.iter().filter(|mention| mention.column == column).map(|mention| {
                let distance = Linked::distance(mention.span, cue) as f64;
                (if mention.whole { 1.0 } else { 0.7 }) / (1.0 + 0.3 * distance)
            });
            let name = known.name.to_lowercase();
            let hint = if headers.iter().any(|header| name.contains(header)) { 0.5 } else { 0.0 };
            let score = near.fold(0.0, f64::max) + hint;
            if score > 0.0 {
                columns.push((column, score));
            }
        }
        if columns.is_empty() {
            // the only column of numbers is meant
            let numbers: Vec<usize> = (0..self.table.columns.len()).filter(|column| self.table.columns[*column].kind.is_number()).collect();
            if let [only] = numbers.as_slice() {
                columns.push((*only, 0.2));
            }
        }
        columns.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        columns.truncate(2);
        columns
    }

    /// Whether the highest is the largest value: not of ranks, and not of the oldest by their year.
    fn ascends(&self, column: usize, highest: bool, headers: &[&str]) -> bool {
        let name = self.name(column).to_lowercase();
        let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).collect();
        let rank = ["rank", "position", "pos", "place", "standing"].iter().any(|word| words.contains(word));
        let age = headers.contains(&"age");
        let by_year = age && !words.contains(&"age");
        highest != (rank || by_year)
    }

    fn extreme(column: &str, ascending: bool) -> Aggregate {
        if ascending { Aggregate::Max(column.to_owned()) } else { Aggregate::Min(column.to_owned()) }
    }

    fn superlative(&mut self, cue: &Superlative) {
        for (column, near) in self.measured(cue.span, cue.headers) {
            let name = self.name(column);
            let ascending = self.ascends(column, cue.highest, cue.headers);
            let outside =
                |at: &usize| !(cue.span.start <= self.linked.links[*at].span.start && self.linked.links[*at].span.end <= cue.span.end);
            let links: Vec<usize> = (0..self.linked.links.len()).filter(outside).collect();
            let bonus = 0.1 * near.min(1.0);
            let is_of = |at: &usize| self.linked.links[*at].choices.first().is_some_and(|choice| choice.column == column);
            let (values, targets): (Vec<usize>, Vec<usize>) = links.iter().partition(|at| is_of(at));
            if cue.rank > 1.0 {
                let target = self.scope(targets.iter().copied());
                if !target.filters.is_empty() {
                    let own = self.plan(target.filters.clone(), Self::extreme(&name, ascending));
                    let op = if ascending { Op::Gt } else { Op::Lt };
                    let beyond = Filter { column: name.clone(), op, value: Value::Of(Box::new(own)) };
                    let compares = vec![self.count(vec![beyond], Op::Eq, cue.rank - 1.0)];
                    self.push(Claim::Ranked, compares, &target, &[cue.span], &[column], bonus);
                }
                continue;
            }
            let of = |scope: &Scope| {
                let most = self.plan(scope.filters.clone(), Self::extreme(&name, ascending));
                Filter { column: name.clone(), op: Op::Eq, value: Value::Of(Box::new(most)) }
            };
            // the value itself is told
            let figures = self
                .linked
                .figures
                .iter()
                .filter(|figure| values.iter().any(|at| self.linked.links[*at].span.start == figure.at) || !figure.linked);
            let figures: Vec<(Span, f64)> = figures.map(|figure| (Span { start: figure.at, end: figure.at + 1 }, figure.value)).collect();
            let mut made = Vec::new();
            let all = self.scope(targets.iter().copied());
            if !all.filters.is_empty() {
                let told = all.clone().with(of(&Scope::default()));
                made.push((Claim::Superlative, vec![self.count(told.filters.clone(), Op::Ge, 1.0)], told, Vec::new(), 0.02));
                for target in targets.iter().filter(|_| targets.len() > 1) {
                    let scope = self.scope(targets.iter().copied().filter(|other| other != target));
                    let mut told = self.scope(targets.iter().copied());
                    told = told.with(of(&scope));
                    made.push((Claim::Superlative, vec![self.count(told.filters.clone(), Op::Ge, 1.0)], told, Vec::new(), 0.0));
                }
            }
            for (span, value) in figures {
                let equal = |scope: &Scope| {
                    let left = self.plan(scope.filters.clone(), Self::extreme(&name, ascending));
                    Compare { left, op: self.figure_op(span), right: Operand::Number(value) }
                };
                if self.table.columns.get(column).is_some_and(|column| column.kind.is_number()) {
                    made.push((Claim::Extreme, vec![equal(&all)], all.clone(), vec![span], 0.02));
                    if !all.filters.is_empty() {
                        let told = all.clone().with(of(&Scope::default()));
                        let compares = vec![equal(&Scope::default()), self.count(told.filters.clone(), Op::Ge, 1.0)];
                        made.push((Claim::Extreme, compares, told, vec![span], 0.0));
                    }
                }
            }
            for (claim, compares, scope, mut spans, more) in made {
                spans.push(cue.span);
                self.push(claim, compares, &scope, &spans, &[column], bonus + more);
            }
        }
    }

    /// How a figure is compared: by the comparative right before it, else as equal.
    fn figure_op(&self, figure: Span) -> Op {
        let before = self.linked.cues.comparatives.iter().find(|cue| cue.span.end == figure.start);
        before.map_or(Op::Eq, |cue| cue.op)
    }

    /// Pairs of links in one column, with what else is named.
    fn pair(&self, cue: Span) -> Option<(Scope, Scope)> {
        let links = &self.linked.links;
        let column = |at: usize| links.get(at)?.choices.first().map(|choice| choice.column);
        let before = (0..links.len()).rev().filter(|at| links[*at].span.end <= cue.start && !is_number_link(self.linked, &links[*at]));
        for first in before {
            let second = (0..links.len()).find(|at| links[*at].span.start >= cue.end && column(*at) == column(first));
            if let Some(second) = second {
                return Some((self.scope([first]), self.scope([second])));
            }
        }
        None
    }

    fn versus(&mut self, cue: &Comparative) {
        let Some((first, second)) = self.pair(cue.span) else { return };
        for (column, near) in self.measured(cue.span, cue.headers) {
            if first.columns.contains(&column) {
                continue;
            }
            let name = self.name(column);
            let flipped = !self.ascends(column, true, cue.headers);
            let op = match cue.op {
                Op::Gt if flipped => Op::Lt,
                Op::Lt if flipped => Op::Gt,
                other => other,
            };
            let of = |scope: &Scope| self.plan(scope.filters.clone(), Aggregate::Max(name.clone()));
            let compares = vec![Compare { left: of(&first), op, right: Operand::Plan(of(&second)) }];
            let spans = [cue.span, second.spans[0]];
            self.push(Claim::Versus, compares, &first, &spans, &[column], 0.05 + 0.1 * near.min(1.0));
        }
    }

    /// Two have the same.
    fn same(&mut self) {
        let Some(cue) = self.linked.cues.same else { return };
        let links = &self.linked.links;
        let column = |at: usize| links.get(at).and_then(|link| link.choices.first()).map(|choice| choice.column);
        let pairs = (0..links.len()).flat_map(|first| (first + 1..links.len()).map(move |second| (first, second)));
        let Some((first, second)) = pairs.into_iter().find(|(first, second)| column(*first) == column(*second)) else { return };
        let (first, second) = (self.scope([first]), self.scope([second]));
        for (measured, near) in self.measured(cue, &[]) {
            let name = self.name(measured);
            let of = |scope: &Scope| self.plan(scope.filters.clone(), Aggregate::Max(name.clone()));
            let compares = vec![Compare { left: of(&first), op: Op::Eq, right: Operand::Plan(of(&second)) }];
            let spans = [cue, second.spans[0]];
            self.push(Claim::Versus, compares, &first, &spans, &[measured], 0.1 * near.min(1.0));
        }
    }

    fn limit(&mut self, cue: &Comparative) {
        // the figure that the comparative limits, within three words
        let figure = self.linked.figures.iter().find(|figure| figure.at >= cue.span.end && figure.at < cue.span.end + 3).cloned();
        let Some(figure) = figure else { return };
        let span = Span { start: figure.at, end: figure.at + 1 };
        for (column, near) in self.measured(span, cue.headers) {
            let kind = self.table.columns[column].kind;
            let value = match kind {
                Kind::Date if (1000.0..3000.0).contains(&figure.value) => Value::Text(format!("{:04}", figure.value)),
                Kind::Integer | Kind::Real => Value::Number(figure.value),
                _ => continue,
            };
            let limit = |op: Op| Filter { column: self.name(column), op, value: value.clone() };
            let scope = self.scope(self.but(figure.at).into_iter().filter(|at| !is_number_link(self.linked, &self.linked.links[*at])));
            let bonus = 0.1 * near.min(1.0);
            let mut made = Vec::new();
            let told = scope.clone().with(limit(cue.op));
            made.push((vec![self.count(told.filters.clone(), Op::Ge, 1.0)], told.clone(), vec![cue.span, span], 0.0));
            if let Some(all) = self.linked.cues.all {
                let other = scope.clone().with(limit(cue.op.negated()));
                made.push((vec![self.count(other.filters, Op::Eq, 0.0)], told.clone(), vec![cue.span, span, all], 0.05));
            }
            for counted in
                self.linked.figures.iter().filter(|other| other.at != figure.at && other.value.fract() == 0.0 && other.value < 1000.0)
            {
                let at = Span { start: counted.at, end: counted.at + 1 };
                made.push((vec![self.count(told.filters.clone(), Op::Eq, counted.value)], told.clone(), vec![cue.span, span, at], 0.0));
            }
            for (compares, scope, spans, more) in made {
                self.push(Claim::Limit, compares, &scope, &spans, &[column], bonus + more);
            }
        }
    }

    fn totals(&mut self) {
        let (sum, mean) = (self.linked.cues.sum, self.linked.cues.mean);
        for (cue, claim) in [(sum, Claim::Sum), (mean, Claim::Mean)].into_iter().filter_map(|(cue, claim)| Some((cue?, claim))) {
            for (column, near) in self.measured(cue, &[]) {
                if !self.table.columns[column].kind.is_number() {
                    continue;
                }
                for figure in self.linked.figures.clone() {
                    let span = Span { start: figure.at, end: figure.at + 1 };
                    let words = self.but(figure.at).into_iter().filter(|at| !is_number_link(self.linked, &self.linked.links[*at]));
                    let scope = self.scope(words);
                    let name = self.name(column);
                    let aggregate = if claim == Claim::Sum { Aggregate::Sum(name) } else { Aggregate::Mean(name) };
                    let left = self.plan(scope.filters.clone(), aggregate);
                    let compares = vec![Compare { left, op: self.figure_op(span), right: Operand::Number(figure.value) }];
                    self.push(claim, compares, &scope, &[cue, span], &[column], 0.1 * near.min(1.0) - 0.02);
                }
            }
        }
    }

    fn all(&mut self) {
        let Some(cue) = self.linked.cues.all else { return };
        let links: Vec<usize> = (0..self.linked.links.len()).collect();
        for target in &links {
            let scope = self.scope(links.iter().copied().filter(|other| other != target));
            let told = self.scope(scope_order(&links, *target));
            let every = self.plan(scope.filters.clone(), Aggregate::Count);
            let both = self.plan(told.filters.clone(), Aggregate::Count);
            let compares =
                vec![self.count(told.filters.clone(), Op::Ge, 1.0), Compare { left: both, op: Op::Eq, right: Operand::Plan(every) }];
            // what is said of all comes last, as a rule
            let bonus = if *target + 1 == links.len() { 0.05 } else { 0.0 };
            self.push(Claim::All, compares, &told, &[cue], &[], bonus);
        }
    }

    fn only(&mut self) {
        let Some(cue) = self.linked.cues.only else { return };
        let links: Vec<usize> = (0..self.linked.links.len()).filter(|at| !is_number_link(self.linked, &self.linked.links[*at])).collect();
        if let [one] = links.as_slice() {
            let told = self.scope([*one]);
            self.push(Claim::Only, vec![self.count(told.filters.clone(), Op::Eq, 1.0)], &told, &[cue], &[], 0.0);
        }
        for target in links.iter().filter(|_| links.len() > 1) {
            let property = self.scope(links.iter().copied().filter(|other| other != target));
            let told = self.scope(scope_order(&links, *target));
            let every = self.plan(property.filters.clone(), Aggregate::Count);
            let both = self.plan(told.filters.clone(), Aggregate::Count);
            let compares =
                vec![self.count(told.filters.clone(), Op::Ge, 1.0), Compare { left: both, op: Op::Eq, right: Operand::Plan(every) }];
            // who is the only one stands beside the word
            let distance = Linked::distance(self.linked.links[*target].span, cue) as f64;
            self.push(Claim::Only, compares, &told, &[cue], &[], 0.06 / (1.0 + distance));
        }
    }

    fn distinct(&mut self) {
        let Some(cue) = self.linked.cues.different else { return };
        for figure in self.linked.figures.clone() {
            let span = Span { start: figure.at, end: figure.at + 1 };
            let scope = self.scope(self.but(figure.at));
            for mention in self.linked.mentions.clone() {
                let left = self.plan(scope.filters.clone(), Aggregate::Distinct(self.name(mention.column)));
                let compares = vec![Compare { left, op: self.figure_op(span), right: Operand::Number(figure.value) }];
                let near = 0.1 / (1.0 + Linked::distance(mention.span, cue) as f64);
                self.push(Claim::Distinct, compares, &scope, &[cue, span], &[mention.column], near);
            }
        }
    }
}

/// All links, the target last, so that it gives way where two are in one column.
fn scope_order(links: &[usize], target: usize) -> Vec<usize> {
    links.iter().copied().filter(|link| *link != target).chain([target]).collect()
}

//! The kinds of claims beyond existence and counts: superlatives, comparisons, totals, all and only.

use super::candidates::{Builder, Claim, Scope, is_number_link};
use super::cues::{Comparative, Span, Superlative};
use super::lexicon::Linked;
use super::plan::{Aggregate, Compare, Filter, Op, Operand, Value};
use super::table::Kind;

impl Builder<'_> {
    pub(super) fn superlative(&mut self, cue: &Superlative) {
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

    pub(super) fn versus(&mut self, cue: &Comparative) {
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
    pub(super) fn same(&mut self) {
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

    pub(super) fn limit(&mut self, cue: &Comparative) {
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

    pub(super) fn totals(&mut self) {
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

    pub(super) fn all(&mut self) {
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

    pub(super) fn only(&mut self) {
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

    pub(super) fn distinct(&mut self) {
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

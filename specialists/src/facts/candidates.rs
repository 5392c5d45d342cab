//! Reads a statement as typed plans: every claim that its cues, cells, columns and numbers can be put together to, each with the share of the
//! statement that it explains.

use super::cues::Span;
use super::lexicon::{Choice, Lexicon, Link, Linked};
use super::plan::{Aggregate, Compare, Filter, Op, Operand, Plan};
use super::rank::is_stop;
use super::table::FactTable;

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
/// How much less likely a reading may be that takes the place of one whose column is taken.
const NEARLY: f64 = 0.45;
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
pub(super) struct Scope {
    pub(super) filters: Vec<Filter>,
    pub(super) spans: Vec<Span>,
    pub(super) columns: Vec<usize>,
    unheld: bool,
}

impl Scope {
    pub(super) fn with(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }
}

pub(super) struct Builder<'a> {
    pub(super) table: &'a FactTable,
    pub(super) linked: &'a Linked,
    found: Vec<Candidate>,
}

pub(super) fn is_number_link(linked: &Linked, link: &Link) -> bool {
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
    pub(super) fn scope(&self, links: impl IntoIterator<Item = usize>) -> Scope {
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

    /// Each link with a reading: its likeliest, but one nearly as likely where another link has taken that column.
    fn assign(&self, links: &[usize]) -> Vec<(usize, &Choice)> {
        let choices = |at: usize| self.linked.links.get(at).map_or(&[][..], |link| &link.choices);
        let mut order: Vec<usize> = links.to_vec();
        order.sort_by_key(|at| choices(*at).len());
        let mut taken = Vec::new();
        let mut assigned: Vec<(usize, &Choice)> = Vec::new();
        for at in order {
            let Some(likeliest) = choices(at).first() else { continue };
            let near = |choice: &&Choice| choice.held && choice.score >= likeliest.score - NEARLY;
            let free = choices(at).iter().filter(near).find(|choice| !taken.contains(&choice.column));
            let choice = free.unwrap_or(likeliest);
            taken.push(choice.column);
            assigned.push((at, choice));
        }
        assigned.sort_by_key(|(at, _)| *at);
        assigned
    }

    /// Whether the words between two places list alternatives.
    fn listed(&self, from: usize, to: usize) -> bool {
        self.linked
            .tokens
            .get(from..to)
            .is_some_and(|between| between.iter().any(|token| matches!(token.text.as_str(), "and" | "or" | "but")))
    }

    pub(super) fn plan(&self, filters: Vec<Filter>, aggregate: Aggregate) -> Plan {
        Plan::new(&self.table.name, filters, aggregate)
    }

    pub(super) fn count(&self, filters: Vec<Filter>, op: Op, number: f64) -> Compare {
        Compare { left: self.plan(filters, Aggregate::Count), op, right: Operand::Number(number) }
    }

    pub(super) fn name(&self, column: usize) -> String {
        self.table.columns.get(column).map_or_else(String::new, |column| column.name.clone())
    }

    pub(super) fn push(&mut self, claim: Claim, compares: Vec<Compare>, scope: &Scope, spans: &[Span], columns: &[usize], bonus: f64) {
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
        let mut groups: Vec<(usize, Vec<Vec<Filter>>)> = Vec::new();
        let mut unheld = false;
        let mut before: Option<(usize, bool, usize)> = None;
        for (at, choice) in self.assign(links) {
            unheld |= !choice.held;
            let span = self.linked.links[at].span;
            // parts of one cell, such as a month and a year, are in the same cell
            let joined = before
                .is_some_and(|(column, exact, end)| column == choice.column && !exact && !choice.exact && !self.listed(end, span.start));
            before = Some((choice.column, choice.exact, span.end));
            match groups.iter_mut().find(|(column, _)| *column == choice.column) {
                Some((_, group)) => match group.last_mut().filter(|_| joined) {
                    Some(last) => last.push(choice.filter.clone()),
                    None => group.push(vec![choice.filter.clone()]),
                },
                None => groups.push((choice.column, vec![vec![choice.filter.clone()]])),
            }
        }
        if groups.is_empty() {
            return;
        }
        let several: Vec<usize> = groups.iter().map(|(_, group)| group.len()).filter(|members| *members > 1).collect();
        let paired = several.len() > 1 && several.windows(2).all(|pair| pair[0] == pair[1]);
        let mut combined: Vec<Vec<Filter>> = vec![Vec::new()];
        if let Some(first) = several.first().filter(|_| paired) {
            // `x in 2009 and y in 2010`: the first with the first, the second with the second
            let nth = |group: &Vec<Vec<Filter>>, at: usize| group.get(if group.len() > 1 { at } else { 0 }).cloned().unwrap_or_default();
            combined = (0..*first).map(|at| groups.iter().flat_map(|(_, group)| nth(group, at)).collect()).collect();
        } else {
            for (_, group) in &groups {
                combined =
                    combined.iter().flat_map(|before| group.iter().map(|filters| [before.clone(), filters.clone()].concat())).collect();
                combined.truncate(COMBINED);
            }
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
    pub(super) fn but(&self, figure: usize) -> Vec<usize> {
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
    pub(super) fn measured(&self, cue: Span, headers: &[&str]) -> Vec<(usize, f64)> {
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
    pub(super) fn ascends(&self, column: usize, highest: bool, headers: &[&str]) -> bool {
        let name = self.name(column).to_lowercase();
        let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).collect();
        let rank = ["rank", "position", "pos", "place", "standing"].iter().any(|word| words.contains(word));
        let age = headers.contains(&"age");
        let by_year = age && !words.contains(&"age");
        highest != (rank || by_year)
    }

    pub(super) fn extreme(column: &str, ascending: bool) -> Aggregate {
        if ascending { Aggregate::Max(column.to_owned()) } else { Aggregate::Min(column.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::holds;
    use super::*;

    fn medals() -> FactTable {
        let columns: Vec<String> = ["rank", "nation", "gold", "silver", "total", "host city", "result"].map(String::from).into();
        let rows = [
            ["1", "russia", "12", "3", "15", "moscow", "w 3 - 1"],
            ["2", "scotland", "4", "6", "10", "perth", "l 0 - 2"],
            ["3", "canada", "4", "1", "5", "moscow", "w 2 - 1"],
            ["4", "japan", "1", "1", "2", "perth", "w 1 - 0"],
        ];
        FactTable::new("medals", "curling championships", &columns, rows.iter().map(|row| row.map(String::from).into()).collect())
    }

    /// What the likeliest reading that gives something says, and what kind it is.
    fn read(statement: &str) -> (Claim, bool) {
        let table = medals();
        let reading = Lexicon::new(&table).read(&table, statement);
        let told = reading.candidates.iter().find_map(|candidate| {
            let held: Vec<Option<bool>> = candidate.compares.iter().map(|compare| holds(&table, compare)).collect();
            Some((candidate.claim, candidate.truth(&held)?))
        });
        told.unwrap_or_else(|| panic!("no reading of {statement:?}"))
    }

    #[test]
    fn statements_are_read_as_what_they_claim() {
        for (statement, claim, truth) in [
            ("russia have 12 gold", Claim::Exists, true),
            ("russia have 4 gold", Claim::Exists, false),
            ("russia do not have 4 gold", Claim::Exists, true),
            ("russia have 12 gold and scotland have 4 gold", Claim::Exists, true),
            ("russia have 4 gold and scotland have 12 gold", Claim::Exists, false),
            ("there be 2 nation from moscow", Claim::Count, true),
            ("there be 3 nation from moscow", Claim::Count, false),
            ("russia have the most gold", Claim::Superlative, true),
            ("canada have the fewest silver", Claim::Superlative, true),
            ("scotland have the highest rank", Claim::Superlative, false),
            ("the highest total be 15", Claim::Extreme, true),
            ("the lowest total be 5", Claim::Extreme, false),
            ("russia have more gold than scotland", Claim::Versus, true),
            ("canada have more silver than scotland", Claim::Versus, false),
            ("japan have less than 2 gold", Claim::Limit, true),
        ] {
            assert_eq!(read(statement), (claim, truth), "{statement}");
        }
    }

    #[test]
    fn every_plan_fits_its_table() {
        let table = medals();
        let lexicon = Lexicon::new(&table);
        for statement in [
            "the second highest total be all of the only 3 different nation with more than 4 gold and an average of 2.5 silver at most",
            "each nation in perth win the same total of 10 or no gold before 2000",
            "\" ; drop table -- ' \\ %",
            "",
        ] {
            for candidate in lexicon.read(&table, statement).candidates {
                for compare in &candidate.compares {
                    compare.left.check("medals", &table.columns).unwrap();
                }
                candidate.rows.check("medals", &table.columns).unwrap();
            }
        }
    }
}

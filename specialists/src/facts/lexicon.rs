//! The words of one table, and the spans of a statement that name its cells and columns.

use std::collections::HashMap;

use super::cues::{Cues, Span};
use super::plan::{Filter, Op, Value};
use super::rank::is_stop;
use super::table::FactTable;
use super::text::{Token, date, folded, tokens};

/// Words of a span at most.
const SPAN: usize = 10;
/// Distinct cells of a column that are known at most; beyond, a column is asked about by its name alone.
const CELLS: usize = 50_000;
/// Share of a column's cells that begin with `w`, `l`, ... for it to hold results.
const RESULTS: f64 = 0.6;

#[derive(Debug)]
struct Cell {
    column: usize,
    text: String,
    tokens: Vec<Token>,
}

/// What is known of one table's words.
#[derive(Debug)]
pub struct Lexicon {
    headers: Vec<Vec<String>>,
    cells: Vec<Cell>,
    /// Cells by each word in them.
    by_stem: HashMap<String, Vec<u32>>,
    /// Columns whose cells begin with `w` or `l`.
    results: Vec<usize>,
}

/// A way to read a span: a filter on a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub column: usize,
    pub filter: Filter,
    /// The span is a whole cell.
    pub exact: bool,
    /// Higher is likelier.
    pub score: f64,
    /// The column holds such a cell.
    pub held: bool,
}

/// A span that names cells, with its readings, the likeliest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    pub span: Span,
    pub choices: Vec<Choice>,
}

/// A span that names a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Mention {
    pub span: Span,
    pub column: usize,
    /// All of the header's words stand there.
    pub whole: bool,
}

/// A number that may be a count or a limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub at: usize,
    pub value: f64,
    /// It is also linked to cells.
    pub linked: bool,
}

/// A statement read against one table.
#[derive(Debug, Clone, Default)]
pub struct Linked {
    pub tokens: Vec<Token>,
    pub links: Vec<Link>,
    pub mentions: Vec<Mention>,
    pub figures: Vec<Figure>,
    pub cues: Cues,
}

impl Lexicon {
    pub fn new(table: &FactTable) -> Self {
        let headers = table.columns.iter().map(|column| tokens(&column.name).into_iter().map(|token| token.stem).collect()).collect();
        let (mut cells, mut by_stem) = (Vec::new(), HashMap::<String, Vec<u32>>::new());
        let mut results = Vec::new();
        for column in 0..table.columns.len() {
            let mut seen = HashMap::new();
            for row in &table.rows {
                let Some(cell) = row.get(column) else { continue };
                if seen.len() < CELLS && !seen.contains_key(cell.as_str()) {
                    seen.insert(cell.as_str(), ());
                }
            }
            let mut texts: Vec<&str> = seen.into_keys().collect();
            texts.sort_unstable();
            let begins = |text: &&&str| ["w ", "l ", "d ", "t "].iter().any(|start| folded(text).starts_with(start));
            if !texts.is_empty() && texts.iter().filter(begins).count() as f64 >= RESULTS * texts.len() as f64 {
                results.push(column);
            }
            for text in texts {
                let tokens = tokens(text);
                let Ok(id) = u32::try_from(cells.len()) else { break };
                for (at, token) in tokens.iter().enumerate() {
                    if !tokens[..at].iter().any(|before| before.stem == token.stem) {
                        by_stem.entry(token.stem.clone()).or_default().push(id);
                    }
                }
                if !tokens.is_empty() {
                    cells.push(Cell { column, text: folded(text), tokens });
                }
            }
        }
        Self { headers, cells, by_stem, results }
    }

    /// Links the spans of a statement.
    pub fn link(&self, table: &FactTable, statement: &str) -> Linked {
        let tokens = tokens(statement);
        let text = folded(statement);
        let mentions = self.mentions(&tokens);
        let mut taken = vec![false; tokens.len()];
        let mut links: Vec<Link> = Vec::new();
        for length in (1..=SPAN.min(tokens.len())).rev() {
            for start in 0..=tokens.len() - length {
                let span = Span { start, end: start + length };
                if taken[start..span.end].iter().any(|taken| *taken) {
                    continue;
                }
                let mut choices = self.choices(table, &tokens[start..span.end]);
                if length > 1 {
                    dates(table, &text, &tokens[start..span.end], &mut choices);
                }
                // a word that names a column as a whole is not a part of some cell
                let header = mentions.iter().any(|mention| mention.span.start <= start && span.end <= mention.span.end);
                choices.retain(|choice| choice.exact || !header);
                if !choices.is_empty() {
                    taken[start..span.end].iter_mut().for_each(|taken| *taken = true);
                    links.push(Link { span, choices });
                }
            }
        }
        self.link_results(table, &tokens, &mut taken, &mut links);
        let cues = {
            // numbers and single words may be cues all the same
            let names: Vec<bool> = (0..tokens.len())
                .map(|at| links.iter().any(|link| link.span.start <= at && at < link.span.end && link.span.end - link.span.start > 1))
                .collect();
            Cues::of(&tokens, &names)
        };
        links.retain(|link| {
            link.span.end - link.span.start > 1
                || !cues.span_of_cues.iter().any(|cue| cue.start <= link.span.start && link.span.end <= cue.end)
        });
        links.sort_by_key(|link| link.span.start);
        let mut linked = Linked { tokens, links, mentions, figures: Vec::new(), cues };
        linked.find_figures(table);
        linked.weigh(table);
        linked
    }

    /// Columns that the statement names, the longest spans first.
    fn mentions(&self, tokens: &[Token]) -> Vec<Mention> {
        let mut found: Vec<Mention> = Vec::new();
        for (column, header) in self.headers.iter().enumerate() {
            let content = |word: &str| !is_stop(word) && word.chars().any(char::is_alphabetic);
            let mut best: Vec<Mention> = Vec::new();
            for start in 0..tokens.len() {
                let matching =
                    |from: usize| header[from..].iter().zip(&tokens[start..]).take_while(|(word, token)| **word == token.stem).count();
                let length = (0..header.len()).map(|from| (matching(from), from)).max_by_key(|(length, from)| (*length, usize::MAX - from));
                let Some((length, _)) = length.filter(|(length, _)| *length > 0) else { continue };
                if tokens[start..start + length].iter().any(|token| content(&token.stem)) {
                    best.push(Mention { span: Span { start, end: start + length }, column, whole: length == header.len() });
                }
            }
            best.sort_by_key(|mention| std::cmp::Reverse(mention.span.end - mention.span.start));
            for mention in best {
                let overlaps =
                    |other: &&Mention| other.column == column && other.span.start < mention.span.end && mention.span.start < other.span.end;
                if found.iter().filter(overlaps).count() == 0 {
                    found.push(mention);
                }
            }
        }
        found
    }

    /// The cells that a span names, by column.
    fn choices(&self, table: &FactTable, span: &[Token]) -> Vec<Choice> {
        let (Some(first), Some(last)) = (span.first(), span.last()) else { return Vec::new() };
        let Some(rarest) = span.iter().map(|token| self.by_stem.get(&token.stem)).min_by_key(|cells| cells.map_or(0, Vec::len)).flatten()
        else {
            return Vec::new();
        };
        let bare = is_stop(&first.text) || is_stop(&last.text);
        // of each column: whole cells, and the shortest writing of the span inside others
        let mut by_column: HashMap<usize, (Vec<&str>, Option<&str>)> = HashMap::new();
        for cell in rarest.iter().filter_map(|id| self.cells.get(*id as usize)) {
            let Some(at) = cell.tokens.windows(span.len()).position(|run| run.iter().zip(span).all(|(one, other)| one.stem == other.stem))
            else {
                continue;
            };
            let whole = cell.tokens.len() == span.len();
            if !whole && (bare || (span.len() == 1 && first.text.chars().count() < 3 && first.number.is_none())) {
                continue;
            }
            let (whole_cells, inside) = by_column.entry(cell.column).or_default();
            if whole {
                whole_cells.push(&cell.text);
            }
            let (from, to) = (cell.tokens[at].start, cell.tokens[at + span.len() - 1].end);
            if let Some(written) = cell.text.get(from..to).filter(|written| inside.is_none_or(|before| written.len() < before.len())) {
                *inside = Some(written);
            }
        }
        let mut choices: Vec<Choice> = by_column
            .into_iter()
            .filter_map(|(column, (whole, inside))| {
                let known = table.columns.get(column)?;
                let number = if span.len() == 1 { first.number } else { super::text::number(whole.first().copied().unwrap_or_default()) };
                let (op, value) = match (whole.as_slice(), number) {
                    ([_, ..], Some(number)) if known.kind.is_number() => (Op::Eq, Value::Number(number)),
                    ([only], _) if !known.kind.is_number() && known.kind != super::Kind::Date => (Op::Eq, Value::Text((*only).to_owned())),
                    _ => (Op::Contains, Value::Text(inside?.to_owned())),
                };
                let exact = !whole.is_empty();
                let filter = Filter { column: known.name.clone(), op, value };
                Some(Choice { column, filter, exact, score: if exact { 1.0 } else { 0.6 }, held: true })
            })
            .collect();
        choices.sort_by_key(|choice| choice.column);
        choices
    }

    /// `win` and `lose` in a column of results such as `w 40 - 0`.
    fn link_results(&self, table: &FactTable, tokens: &[Token], taken: &mut [bool], links: &mut Vec<Link>) {
        for (at, token) in
            tokens.iter().enumerate().filter(|(at, _)| !taken[*at]).map(|(at, token)| (at, token.clone())).collect::<Vec<_>>()
        {
            let start = match token.stem.as_str() {
                "win" | "won" | "victory" | "beat" | "defeat" | "winn" => "w",
                "los" | "lose" | "loss" | "lost" | "fall" => "l",
                "draw" | "drawn" | "tie" | "ti" => "t",
                _ => continue,
            };
            let choices: Vec<Choice> = self
                .results
                .iter()
                .filter_map(|column| {
                    let filter =
                        Filter { column: table.columns.get(*column)?.name.clone(), op: Op::Begins, value: Value::Text(start.into()) };
                    Some(Choice { column: *column, filter, exact: false, score: 0.8, held: true })
                })
                .collect();
            if !choices.is_empty() {
                taken[at] = true;
                links.push(Link { span: Span { start: at, end: at + 1 }, choices });
            }
        }
    }
}

/// A span that is a day, for columns of dates however they write them.
fn dates(table: &FactTable, statement: &str, span: &[Token], choices: &mut Vec<Choice>) {
    let written = span.first().zip(span.last()).and_then(|(first, last)| statement.get(first.start..last.end));
    let Some(day) = written.and_then(date).filter(|day| day.len() == 10) else { return };
    for (column, known) in table.columns.iter().enumerate().filter(|(_, known)| known.kind == super::Kind::Date) {
        let held = choices.iter().any(|choice| choice.column == column);
        // without a year the texts must agree
        if held || day.starts_with("0000") {
            continue;
        }
        let filter = Filter { column: known.name.clone(), op: Op::Eq, value: Value::Text(day.clone()) };
        choices.push(Choice { column, filter, exact: true, score: 0.9, held: false });
    }
}

impl Linked {
    fn find_figures(&mut self, table: &FactTable) {
        let _ = table;
        for (at, token) in self.tokens.iter().enumerate() {
            let Some(value) = token.number.filter(|_| !token.ordinal) else { continue };
            let inside = self.links.iter().find(|link| link.span.start <= at && at < link.span.end);
            if inside.is_some_and(|link| link.span.end - link.span.start > 1) {
                continue;
            }
            self.figures.push(Figure { at, value, linked: inside.is_some() });
        }
    }

    /// The tokens between two spans; 0 where they touch or overlap.
    pub fn distance(one: Span, other: Span) -> usize {
        one.start.saturating_sub(other.end).max(other.start.saturating_sub(one.end))
    }

    /// Readings in a column that the statement names nearby are likelier; a number beside a column's name is that column's, whether or not it
    /// holds it.
    fn weigh(&mut self, table: &FactTable) {
        let near = |mentions: &[Mention], span: Span, column: usize| {
            let found = mentions.iter().filter(|mention| mention.column == column);
            found
                .map(|mention| (if mention.whole { 1.0 } else { 0.6 }) / (1.0 + Self::distance(mention.span, span) as f64))
                .fold(0.0, f64::max)
        };
        let mut links = std::mem::take(&mut self.links);
        for figure in &self.figures {
            let span = Span { start: figure.at, end: figure.at + 1 };
            let mut added = Vec::new();
            for (column, known) in table.columns.iter().enumerate().filter(|(_, known)| known.kind.is_number()) {
                if near(&self.mentions, span, column) >= 0.3 {
                    let filter = Filter { column: known.name.clone(), op: Op::Eq, value: Value::Number(figure.value) };
                    added.push(Choice { column, filter, exact: true, score: 0.8, held: false });
                }
            }
            match links.iter_mut().find(|link| link.span == span) {
                Some(link) => {
                    added.retain(|choice| link.choices.iter().all(|held| held.column != choice.column));
                    link.choices.extend(added);
                }
                None if !added.is_empty() => links.push(Link { span, choices: added }),
                None => {}
            }
        }
        for link in &mut links {
            for choice in &mut link.choices {
                choice.score += near(&self.mentions, link.span, choice.column);
            }
            link.choices.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.column.cmp(&b.column)));
        }
        links.sort_by_key(|link| link.span.start);
        self.links = links;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn season() -> FactTable {
        let columns: Vec<String> = ["week", "date", "opponent", "result", "attendance"].map(String::from).into();
        let rows = [
            ["1", "september 20 , 1970", "green bay packers", "w 40 - 0", "56263"],
            ["2", "september 27 , 1970", "cincinnati bengals", "w 38 - 3", "58202"],
            ["3", "october 5 , 1970", "chicago bears", "l 28 - 14", "58210"],
        ];
        FactTable::new("lions", "1970 detroit lions season", &columns, rows.iter().map(|row| row.map(String::from).into()).collect())
    }

    fn best(statement: &str) -> Vec<(String, Op, Value)> {
        let table = season();
        let linked = Lexicon::new(&table).link(&table, statement);
        linked.links.into_iter().map(|link| link.choices[0].filter.clone()).map(|filter| (filter.column, filter.op, filter.value)).collect()
    }

    #[test]
    fn spans_name_cells_whole_or_in_part() {
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(best("the opponent be the green bay packer"), [("opponent".into(), Op::Eq, text("green bay packers"))]);
        assert_eq!(best("they play in september"), [("date".into(), Op::Contains, text("september"))]);
        assert_eq!(best("on 20 September 1970"), [("date".into(), Op::Eq, text("1970-09-20"))]);
        assert_eq!(
            best("they lose against chicago"),
            [("result".into(), Op::Begins, text("l")), ("opponent".into(), Op::Contains, text("chicago"))]
        );
    }

    #[test]
    fn a_number_beside_a_column_is_the_columns() {
        assert_eq!(best("attendance of 99999"), [("attendance".into(), Op::Eq, Value::Number(99_999.0))]);
        assert_eq!(best("week 2"), [("week".into(), Op::Eq, Value::Number(2.0))]);
    }
}

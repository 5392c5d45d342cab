//! A full-text index of table rows: BM25F (Robertson, Zaragoza and Taylor 2004, "Simple BM25
//! extension to multiple weighted fields") over search tokens, for any language. A document is a
//! row: its cells are one field; the name, description and column names of its table are another
//! one of lower weight.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::table::FactTable;
use crate::tokens::tokens;

/// BM25's saturation `k1` and length normalisation `b`: the usual values.
const SATURATION: f64 = 1.2;
const LENGTH: f64 = 0.75;
/// Weight of the table's field relative to the row's cells.
const TABLE_WEIGHT: f64 = 0.3;

/// One row found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FoundRow {
    /// Index of the table in the indexed list, and of the row in the table.
    pub table: usize,
    /// The row's number in its table, from 0.
    pub row: usize,
    /// Fraction of the maximum score of the question's tokens, in (0, 1).
    pub score: f64,
}

/// The postings of a token, with counts.
#[derive(Debug, Clone, Default)]
struct Postings {
    /// By row number over all tables, ascending.
    rows: Vec<(u32, u16)>,
    tables: Vec<(u32, u16)>,
}

/// An index of all rows of some tables. Memory grows with their cells.
#[derive(Debug, Clone, Default)]
pub struct RowIndex {
    postings: HashMap<String, Postings>,
    /// The rows of each table, as ranges of row numbers over all tables.
    spans: Vec<Range<u32>>,
    /// Length normalisation of a row's cells, and of a table's field: less than 1 in a long one.
    row_norms: Vec<f32>,
    table_norms: Vec<f32>,
}

/// Counts of each token.
fn counted<'a>(texts: impl Iterator<Item = &'a str>) -> (HashMap<String, u16>, u32) {
    let (mut counts, mut length) = (HashMap::new(), 0_u32);
    for token in texts.flat_map(tokens) {
        let count: &mut u16 = counts.entry(token).or_default();
        *count = count.saturating_add(1);
        length = length.saturating_add(1);
    }
    (counts, length)
}

/// The BM25 length normalisation of each field: the inverse of its length relative to the mean
/// length, smoothed by `b`.
fn norms(lengths: &[u32]) -> Vec<f32> {
    let mean =
        lengths.iter().map(|length| f64::from(*length)).sum::<f64>() / lengths.len().max(1) as f64;
    let norm = |length: &u32| 1.0 / (1.0 - LENGTH + LENGTH * f64::from(*length) / mean.max(1.0));
    lengths.iter().map(|length| norm(length) as f32).collect()
}

impl RowIndex {
    /// Indexes tables.
    pub fn new(tables: &[FactTable]) -> Self {
        let mut index = Self::default();
        let (mut row_lengths, mut table_lengths) = (Vec::new(), Vec::new());
        for (table, place) in tables.iter().zip(0_u32..) {
            let about = [&table.name, &table.caption]
                .into_iter()
                .chain(table.columns.iter().map(|column| &column.name));
            let (counts, length) = counted(about.map(String::as_str));
            table_lengths.push(length);
            for (token, count) in counts {
                index.postings.entry(token).or_default().tables.push((place, count));
            }
            let first = row_lengths.len() as u32;
            for (row, number) in table.rows.iter().zip(first..) {
                let (counts, length) = counted(row.iter().map(String::as_str));
                row_lengths.push(length);
                for (token, count) in counts {
                    index.postings.entry(token).or_default().rows.push((number, count));
                }
            }
            index.spans.push(first..row_lengths.len() as u32);
        }
        index.row_norms = norms(&row_lengths);
        index.table_norms = norms(&table_lengths);
        index
    }

    /// The `k` best rows for a text, best first; of equals those with the lower row number. A row
    /// that shares no token with the text is not returned.
    pub fn search(&self, text: &str, k: usize) -> Vec<FoundRow> {
        let rows = self.row_norms.len();
        // the score that every row of a table gets from the table's field, and what rows get on top
        // from their own cells
        let (mut table_scores, mut row_scores) =
            (vec![0.0_f64; self.spans.len()], HashMap::<u32, f64>::new());
        let mut most = 0.0;
        for token in tokens(text).into_iter().collect::<BTreeSet<_>>() {
            let idf = |doc_freq: usize| {
                (1.0 + (rows as f64 - doc_freq as f64 + 0.5) / (doc_freq as f64 + 0.5)).ln()
            };
            let Some(postings) = self.postings.get(&token) else {
                most += idf(0);
                continue;
            };
            let about: HashMap<u32, f64> = postings
                .tables
                .iter()
                .map(|&(table, count)| (table, self.about(table, count)))
                .collect();
            let elsewhere = postings
                .rows
                .iter()
                .filter(|(row, _)| !about.contains_key(&self.table_of(*row)))
                .count();
            let idf = idf(elsewhere
                + about
                    .keys()
                    .filter_map(|table| self.spans.get(*table as usize))
                    .map(|span| span.len())
                    .sum::<usize>());
            most += idf;
            let term_score = |frequency: f64| idf * frequency / (SATURATION + frequency);
            for (table, frequency) in &about {
                table_scores[*table as usize] += term_score(*frequency);
            }
            for &(row, count) in &postings.rows {
                let table_tf = about.get(&self.table_of(row)).copied().unwrap_or_default();
                let frequency =
                    f64::from(count) * f64::from(self.row_norms[row as usize]) + table_tf;
                *row_scores.entry(row).or_default() += term_score(frequency) - term_score(table_tf);
            }
        }
        let mut found: Vec<(u32, f64)> = row_scores
            .iter()
            .map(|(row, term_score)| {
                (*row, term_score + table_scores[self.table_of(*row) as usize])
            })
            .collect();
        for (span, term_score) in
            self.spans.iter().zip(&table_scores).filter(|(_, term_score)| **term_score > 0.0)
        {
            // the other rows of a table all have the same score: its first `k` suffice
            found.extend(
                span.clone()
                    .filter(|row| !row_scores.contains_key(row))
                    .take(k)
                    .map(|row| (row, *term_score)),
            );
        }
        found.sort_by(|(a, one), (b, other)| other.total_cmp(one).then(a.cmp(b)));
        found.truncate(k);
        found.into_iter().map(|(row, term_score)| self.found(row, term_score / most)).collect()
    }

    fn about(&self, table: u32, count: u16) -> f64 {
        TABLE_WEIGHT * f64::from(count) * f64::from(self.table_norms[table as usize])
    }

    /// The index of the table that holds a row.
    fn table_of(&self, row: u32) -> u32 {
        self.spans.partition_point(|span| span.end <= row) as u32
    }

    fn found(&self, row: u32, score: f64) -> FoundRow {
        let table = self.table_of(row) as usize;
        FoundRow { table, row: (row - self.spans[table].start) as usize, score }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Column, Kind};
    use super::*;

    fn table(name: &str, caption: &str, columns: &[&str], rows: &[&[&str]]) -> FactTable {
        FactTable {
            name: name.into(),
            caption: caption.into(),
            columns: columns
                .iter()
                .map(|&name| Column { name: name.into(), kind: Kind::Text })
                .collect(),
            rows: rows
                .iter()
                .map(|row| row.iter().map(|&cell| cell.to_owned()).collect())
                .collect(),
        }
    }

    fn tables() -> Vec<FactTable> {
        vec![
            table("empty", "a table without rows", &["opponent"], &[]),
            table(
                "games",
                "1970 Detroit Lions season",
                &["week", "opponent"],
                &[
                    &["1", "Green Bay Packers"],
                    &["2", "Cincinnati Bengals"],
                    &["3", "Chicago Bears"],
                ],
            ),
            table(
                "cities",
                "Столицы и города",
                &["Name", "Страна", "人口"],
                &[
                    &["Zürich", "Schweiz", "443037"],
                    &["Москва", "Россия", "13010112"],
                    &["東京都", "日本", "14047594"],
                ],
            ),
        ]
    }

    fn places(index: &RowIndex, text: &str, k: usize) -> Vec<(usize, usize)> {
        index.search(text, k).iter().map(|found| (found.table, found.row)).collect()
    }

    #[test]
    fn search_matches_cell_text_in_any_script() {
        let index = RowIndex::new(&tables());
        for (text, expected) in [
            ("Who played the chicago bears?", (1, 2)),
            ("What about week 2, cincinnati?", (1, 1)),
            ("zurich", (2, 0)),
            ("ZU\u{308}RICH?", (2, 0)),
            ("Сколько людей живёт в МОСКВА?", (2, 1)),
            ("東京の人口は", (2, 2)),
            ("京", (2, 2)),
            ("14047594", (2, 2)),
        ] {
            assert_eq!(places(&index, text, 5).first(), Some(&expected), "{text}");
        }
        assert_eq!(places(&index, "zeppelin", 5), []);
        assert_eq!(places(&index, "?!", 5), []);
        assert_eq!(places(&RowIndex::new(&[]), "chicago", 5), []);
    }

    #[test]
    fn rows_are_found_by_the_description_of_their_table() {
        let index = RowIndex::new(&tables());
        for (text, expected) in [
            ("games", vec![(1, 0), (1, 1)]),
            ("the lions of detroit", vec![(1, 0), (1, 1)]),
            ("столицы", vec![(2, 0), (2, 1)]),
            ("страна", vec![(2, 0), (2, 1)]),
            ("人口", vec![(2, 0), (2, 1)]),
            // a match in a cell ranks above a match in a table's description
            ("opponent bears", vec![(1, 2), (1, 0)]),
            ("season москва", vec![(2, 1), (1, 0)]),
        ] {
            assert_eq!(places(&index, text, 2), expected, "{text}");
        }
    }

    #[test]
    fn rare_tokens_and_short_rows_rank_higher() {
        let rows: Vec<Vec<&str>> = (0..20)
            .map(|_| vec!["common word"])
            .chain([vec!["rare word"], vec!["rare word with very much beside it"]])
            .collect();
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        let index = RowIndex::new(&[table("t", "", &["c"], &rows)]);
        assert_eq!(places(&index, "common rare", 2), [(0, 20), (0, 21)]);
    }

    /// Compares with the formula, row by row.
    #[test]
    fn scores_are_those_of_the_formula() {
        let tables = tables();
        let index = RowIndex::new(&tables);
        let all: Vec<(usize, usize)> = tables
            .iter()
            .enumerate()
            .flat_map(|(at, table)| (0..table.rows.len()).map(move |row| (at, row)))
            .collect();
        let cells = |(at, row): (usize, usize)| {
            tables[at].rows[row].iter().flat_map(|cell| tokens(cell)).collect::<Vec<_>>()
        };
        let about = |at: usize| {
            let table = &tables[at];
            let columns = table.columns.iter().flat_map(|column| tokens(&column.name));
            tokens(&table.name)
                .into_iter()
                .chain(tokens(&table.caption))
                .chain(columns)
                .collect::<Vec<_>>()
        };
        let mean =
            |lengths: Vec<usize>| lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
        let row_mean = mean(all.iter().map(|place| cells(*place).len()).collect());
        let table_mean = mean((0..tables.len()).map(|at| about(at).len()).collect());
        let frequency = |token: &str, place: (usize, usize)| {
            let count = |field: &[String], mean: f64| {
                let count = field.iter().filter(|other| *other == token).count() as f64;
                count / (0.25 + 0.75 * field.len() as f64 / mean)
            };
            count(&cells(place), row_mean) + 0.3 * count(&about(place.0), table_mean)
        };
        for text in
            ["opponent week 3 lions bears", "a table of 人口 in 日本", "games games unheard"]
        {
            let asked: BTreeSet<String> = tokens(text).into_iter().collect();
            let idf = |token: &str| {
                let doc_freq =
                    all.iter().filter(|place| frequency(token, **place) > 0.0).count() as f64;
                (1.0 + (all.len() as f64 - doc_freq + 0.5) / (doc_freq + 0.5)).ln()
            };
            let most: f64 = asked.iter().map(|token| idf(token)).sum();
            let found = index.search(text, 50);
            for place in &all {
                let term_score = |token: &String| {
                    let frequency = frequency(token, *place);
                    idf(token) * frequency / (1.2 + frequency)
                };
                let expected = asked.iter().map(term_score).sum::<f64>() / most;
                let score = found
                    .iter()
                    .find(|found| (found.table, found.row) == *place)
                    .map_or(0.0, |found| found.score);
                assert!(
                    (score - expected).abs() < 1e-6,
                    "{text} {place:?}: {score}, expected {expected}"
                );
            }
            assert!(
                found.windows(2).all(|pair| pair[0].score >= pair[1].score)
                    && found.iter().all(|found| found.score < 1.0)
            );
        }
    }
}

//! Finds the registered table that a statement is about: runs of one to four words, weighed by how few tables hold them (BM25's idf; Robertson and
//! Zaragoza 2009), in captions, column names and cells, and how much of the statement one row says.

use std::collections::{HashMap, HashSet};

use super::table::FactTable;
use super::text::tokens;

/// Words in a run at most.
const RUN: usize = 4;
/// How much a run of 1, 2, 3 and 4 words counts beside the others.
const RUN_WEIGHT: [f64; RUN] = [1.0, 0.7, 0.7, 0.7];
const CAPTION: f64 = 1.6;
const COLUMN: f64 = 1.0;
const CELL: f64 = 1.0;
/// For each word that is there at all, however common.
const WORD: f64 = 0.6;
/// Of the best row's own share.
const ROW: f64 = 0.5;
/// Words that say nothing about the subject.
const STOP: &str = " a an the of in on at to be is are was were and or by for with it its that this there do does did not no from as than have has had true he she they his her their who which when all any each only more less most least over under same other ";

pub(super) fn is_stop(word: &str) -> bool {
    STOP.contains(&format!(" {word} "))
}

/// Runs of stems, each once, with their length.
fn runs(stems: &[String]) -> HashMap<String, usize> {
    let mut found = HashMap::new();
    for length in 1..=RUN {
        for run in stems.windows(length) {
            // a run that begins or ends in a word without a subject says no more than the run inside
            let bare = |word: Option<&String>| word.is_none_or(|word| is_stop(word));
            if !bare(run.first()) && !bare(run.last()) {
                found.insert(run.join(" "), length);
            }
        }
    }
    found
}

fn stems(text: &str) -> Vec<String> {
    tokens(text).into_iter().map(|token| token.stem).collect()
}

/// What the statement asks, without the asking: `Is it true that …?`.
pub fn bare_statement(statement: &str) -> &str {
    let text = statement.trim().trim_end_matches(['?', '.']).trim();
    for opening in [
        "is it true that",
        "is it correct that",
        "is it the case that",
        "is it a fact that",
        "true or false:",
        "verify:",
        "check:",
        "statement:",
    ] {
        if let Some(start) = text.get(..opening.len())
            && start.eq_ignore_ascii_case(opening)
        {
            return text[opening.len()..].trim();
        }
    }
    text
}

/// One table in the index.
#[derive(Debug)]
struct Entry {
    name: String,
    /// The best field of each run, as its weight.
    runs: HashMap<u32, f32>,
    /// The single words of each row.
    rows: Vec<Vec<u32>>,
}

/// An index over tables.
#[derive(Debug, Default)]
pub struct TableIndex {
    words: HashMap<String, u32>,
    /// Tables that hold each run.
    held: Vec<u32>,
    tables: Vec<Entry>,
}

impl TableIndex {
    pub fn new<'a>(tables: impl IntoIterator<Item = &'a FactTable>) -> Self {
        let mut index = Self::default();
        for table in tables {
            index.add(table);
        }
        index
    }

    pub fn len(&self) -> usize {
        self.tables.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    fn id(&mut self, run: String) -> u32 {
        let next = u32::try_from(self.words.len()).unwrap_or(u32::MAX);
        *self.words.entry(run).or_insert(next)
    }

    fn add(&mut self, table: &FactTable) {
        let mut found: HashMap<u32, f32> = HashMap::new();
        let mut note = |index: &mut Self, text: &[String], weight: f64| {
            for run in runs(text).into_keys() {
                let held = found.entry(index.id(run)).or_insert(0.0);
                *held = held.max(weight as f32);
            }
        };
        note(self, &stems(&table.caption), CAPTION);
        for column in &table.columns {
            note(self, &stems(&column.name), COLUMN);
        }
        let mut rows = Vec::with_capacity(table.rows.len());
        for row in &table.rows {
            let mut words = HashSet::new();
            for cell in row {
                let cell = stems(cell);
                note(self, &cell, CELL);
                words.extend(cell.into_iter().filter(|word| !is_stop(word)).map(|word| self.id(word)));
            }
            let mut words: Vec<u32> = words.into_iter().collect();
            words.sort_unstable();
            rows.push(words);
        }
        self.held.resize(self.words.len(), 0);
        for run in found.keys() {
            if let Some(held) = self.held.get_mut(*run as usize) {
                *held += 1;
            }
        }
        self.tables.push(Entry { name: table.name.clone(), runs: found, rows });
    }

    /// The `k` likeliest tables with their scores, best first; of equals the one registered first. A table that shares nothing is left out.
    pub fn rank(&self, statement: &str, k: usize) -> Vec<(String, f64)> {
        let asked = runs(&stems(bare_statement(statement)));
        let tables = self.tables.len() as f64;
        let mut known: Vec<(u32, f64, usize)> = asked
            .iter()
            .filter_map(|(run, length)| {
                let id = *self.words.get(run)?;
                let held = f64::from(*self.held.get(id as usize)?);
                // a word that every table holds still says a little
                let idf = ((tables - held + 0.5) / (held + 0.5) + 1.0).ln();
                Some((id, idf, *length))
            })
            .collect();
        known.sort_unstable_by_key(|(id, ..)| *id);
        let mut ranked: Vec<(usize, f64)> = self.tables.iter().map(|table| table.score(&known)).enumerate().collect();
        ranked.retain(|(_, score)| *score > 0.0);
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.into_iter().take(k).filter_map(|(at, score)| Some((self.tables.get(at)?.name.clone(), score))).collect()
    }
}

impl Entry {
    fn score(&self, asked: &[(u32, f64, usize)]) -> f64 {
        let said = |(run, idf, length): &(u32, f64, usize)| {
            let there = if *length == 1 { WORD } else { 0.0 };
            Some(f64::from(*self.runs.get(run)?) * idf * RUN_WEIGHT.get(length - 1)? + there)
        };
        let said: f64 = asked.iter().filter_map(said).sum();
        let row = |row: &Vec<u32>| {
            let words = asked.iter().filter(|(_, _, length)| *length == 1);
            words.filter(|(run, ..)| row.binary_search(run).is_ok()).map(|(_, idf, _)| idf).sum::<f64>()
        };
        said + ROW * self.rows.iter().map(row).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, caption: &str, columns: &[&str], rows: &[&[&str]]) -> FactTable {
        let columns: Vec<String> = columns.iter().map(|&name| name.into()).collect();
        FactTable::new(name, caption, &columns, rows.iter().map(|row| row.iter().map(|&cell| cell.into()).collect()).collect())
    }

    #[test]
    fn the_table_that_says_most_of_it_comes_first() {
        let tables = [
            table(
                "lions",
                "1970 detroit lions season",
                &["opponent", "attendance"],
                &[&["green bay packers", "56263"], &["chicago bears", "45632"]],
            ),
            table("vfl", "1956 vfl season", &["home team", "crowd"], &[&["fitzroy", "30,000"]]),
            table("oscars", "academy awards", &["film", "year"], &[&["chicago", "2002"]]),
        ];
        let index = TableIndex::new(&tables);
        let first = |statement: &str| index.rank(statement, 5).into_iter().map(|(name, _)| name).next();
        assert_eq!(first("Is it true that the game against the chicago bear had 45632 people?").as_deref(), Some("lions"));
        assert_eq!(first("the biggest crowd be fewer than 30000 in 1956").as_deref(), Some("vfl"));
        assert_eq!(first("chicago be the film of 2002").as_deref(), Some("oscars"));
        assert_eq!(first("nothing at all of this"), None);
        assert_eq!(index.rank("chicago", 1).len(), 1);
    }

    #[test]
    fn the_asking_is_not_part_of_the_statement() {
        assert_eq!(bare_statement(" Is it true that x be y? "), "x be y");
        assert_eq!(bare_statement("x is y."), "x is y");
        assert_eq!(bare_statement("é"), "é");
    }
}

//! Words of a statement that say what kind of claim it makes: superlatives, comparisons, counts, totals, negations.

use super::plan::Op;
use super::text::Token;

/// Where a cue stands: its tokens `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Superlative {
    pub span: Span,
    pub highest: bool,
    /// Words of headers that it speaks of by itself: `tallest` of heights.
    pub headers: &'static [&'static str],
    /// `second highest` is 2.
    pub rank: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Comparative {
    pub span: Span,
    pub op: Op,
    pub headers: &'static [&'static str],
}

/// The cues of a statement.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cues {
    pub superlatives: Vec<Superlative>,
    pub comparatives: Vec<Comparative>,
    pub negations: Vec<Span>,
    pub sum: Option<Span>,
    pub mean: Option<Span>,
    pub only: Option<Span>,
    pub all: Option<Span>,
    pub same: Option<Span>,
    pub different: Option<Span>,
    pub both: bool,
    pub either: bool,
    /// `there be`, `N of`, `N times`.
    pub counting: bool,
    pub span_of_cues: Vec<Span>,
}

const NONE: &[&str] = &[];
const AGE: &[&str] = &["age", "born", "birth", "year", "date", "built", "established", "founded"];
const TIME: &[&str] = &["time", "date", "year", "day", "season", "week"];
const HEIGHT: &[&str] = &["height", "ft", "floor", "elevation", "length"];
const SPEED: &[&str] = &["time", "speed", "lap"];
const LENGTH: &[&str] = &["length", "distance", "duration", "time", "yard", "long"];
const CROWD: &[&str] = &["crowd", "attendance", "population", "size", "area"];
const WEIGHT: &[&str] = &["weight"];

/// Superlatives that are no regular `-est`, or say of which column they are. `highest` is the sense of the number.
fn superlative(word: &str) -> Option<(bool, &'static [&'static str])> {
    Some(match word {
        "most" | "highest" | "greatest" | "maximum" | "max" | "best" | "top" => (true, NONE),
        "largest" | "biggest" => (true, CROWD),
        "least" | "lowest" | "fewest" | "minimum" | "min" | "worst" => (false, NONE),
        "smallest" => (false, CROWD),
        "tallest" => (true, HEIGHT),
        "longest" | "farthest" | "furthest" => (true, LENGTH),
        "shortest" => (false, HEIGHT),
        "oldest" => (true, AGE),
        "youngest" => (false, AGE),
        "latest" | "newest" => (true, TIME),
        "earliest" => (false, TIME),
        "fastest" | "quickest" => (false, SPEED),
        "slowest" => (true, SPEED),
        "heaviest" => (true, WEIGHT),
        "lightest" => (false, WEIGHT),
        _ => return None,
    })
}

fn comparative(word: &str) -> Option<(Op, &'static [&'static str])> {
    Some(match word {
        "more" | "higher" | "greater" | "better" | "above" | "over" | "exceed" | "bigger" | "larger" => (Op::Gt, NONE),
        "less" | "fewer" | "lower" | "below" | "under" | "smaller" | "worse" => (Op::Lt, NONE),
        "taller" => (Op::Gt, HEIGHT),
        "shorter" => (Op::Lt, HEIGHT),
        "longer" | "farther" | "further" => (Op::Gt, LENGTH),
        "older" => (Op::Gt, AGE),
        "younger" => (Op::Lt, AGE),
        "later" | "after" | "since" => (Op::Gt, TIME),
        "earlier" | "before" | "prior" | "until" => (Op::Lt, TIME),
        "faster" | "quicker" => (Op::Lt, SPEED),
        "slower" => (Op::Gt, SPEED),
        "heavier" => (Op::Gt, WEIGHT),
        "lighter" => (Op::Lt, WEIGHT),
        _ => return None,
    })
}

const NEGATIONS: [&str; 14] =
    ["not", "no", "never", "none", "neither", "nor", "without", "didn", "doesn", "isn", "wasn", "weren", "aren", "don"];

impl Cues {
    /// Those of a statement; what stands in `taken` is a name and no cue.
    pub fn of(tokens: &[Token], taken: &[bool]) -> Self {
        let mut cues = Self::default();
        let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
        let free = |at: usize| !taken.get(at).copied().unwrap_or(true);
        for at in (0..tokens.len()).filter(|at| free(*at)) {
            let (here, next, previous) = (word(at), word(at + 1), if at == 0 { "" } else { word(at - 1) });
            let span = Span { start: at, end: at + 1 };
            let wide = |end: usize| Span { start: at, end: end.min(tokens.len()) };
            // `more ... than any other` is a superlative
            let beyond_any = || (at..tokens.len()).any(|place| word(place) == "than" && matches!(word(place + 1), "any" | "all" | "every"));
            if NEGATIONS.contains(&here) && !(here == "no" && tokens.get(at + 1).is_some_and(|token| token.number.is_some())) {
                cues.negations.push(span);
            } else if let ("at", "least" | "most") = (previous, here) {
                let op = if here == "least" { Op::Ge } else { Op::Le };
                cues.comparatives.push(Comparative { span: Span { start: at - 1, end: at + 1 }, op, headers: NONE });
            } else if let Some((highest, headers)) = superlative(here) {
                let ordinal = at.checked_sub(1).and_then(|before| tokens.get(before)).filter(|token| token.ordinal);
                let rank = ordinal.and_then(|token| token.number).unwrap_or(1.0);
                let start = at - usize::from(ordinal.is_some());
                cues.superlatives.push(Superlative { span: Span { start, end: at + 1 }, highest, headers, rank });
            } else if let Some((op, headers)) = comparative(here) {
                if matches!(here, "more" | "higher" | "greater" | "less" | "fewer" | "lower" | "better") && beyond_any() {
                    cues.superlatives.push(Superlative { span, highest: op == Op::Gt, headers, rank: 1.0 });
                } else {
                    cues.comparatives.push(Comparative { span: wide(if next == "than" { at + 2 } else { at + 1 }), op, headers });
                }
            } else {
                match here {
                    "total" | "sum" | "combine" | "combined" | "altogether" | "overall" => cues.sum = Some(span),
                    "average" | "mean" | "averaged" => cues.mean = Some(span),
                    "only" | "just" | "sole" => cues.only = Some(span),
                    "all" | "every" | "each" | "always" | "everyone" => cues.all = Some(span),
                    "same" | "tie" | "tied" | "equal" => cues.same = Some(span),
                    "different" | "distinct" | "unique" => cues.different = Some(span),
                    "both" => cues.both = true,
                    "or" | "either" => cues.either = true,
                    "there" => cues.counting = true,
                    "time" | "times" => cues.counting |= at > 0 && tokens[at - 1].number.is_some(),
                    "of" => cues.counting |= at > 0 && tokens[at - 1].number.is_some(),
                    _ => {}
                }
            }
        }
        cues.span_of_cues = cues
            .superlatives
            .iter()
            .map(|cue| cue.span)
            .chain(cues.comparatives.iter().map(|cue| cue.span))
            .chain([cues.sum, cues.mean, cues.only, cues.all, cues.same, cues.different].into_iter().flatten())
            .collect();
        cues
    }

    /// An odd number of negations turns the claim round.
    pub fn negated(&self) -> bool {
        self.negations.len() % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::tokens;
    use super::*;

    fn cues(text: &str) -> Cues {
        let tokens = tokens(text);
        Cues::of(&tokens, &vec![false; tokens.len()])
    }

    #[test]
    fn cues_are_found() {
        let found = cues("the second highest crowd be not over 20000");
        assert_eq!((found.superlatives[0].rank, found.superlatives[0].highest), (2.0, true));
        assert_eq!(found.comparatives[0].op, Op::Gt);
        assert!(found.negated());
        assert!(cues("x win more than any other team").superlatives[0].highest);
        assert_eq!(cues("at least 3 of them").comparatives[0].op, Op::Ge);
        assert!(cues("there be 3 game").counting && cues("3 of the 8").counting);
        assert!(!cues("not never").negated() && cues("in game no 3").negations.is_empty());
    }
}

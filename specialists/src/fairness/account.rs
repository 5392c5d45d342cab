//! What a text says of each of two people, and whom the words of a question fit better.
//!
//! A language model of a few hundred million parameters names either of the two as often when it is asked who did what. Sentence embeddings do better:
//! the text is cut into clauses, each clause goes to the person whom it names first (one without a name to the person before it), and the clauses of
//! both are compared with the question by likeness and by whether both speak well or ill, as a direction in the embedding space tells
//! ([`Reader`]; a semantic axis as in An, Kwak and Ahn 2018, "SemAxis"). Names are neutral when this is read ([`super::People::hidden`]), so that no
//! group takes part.

use serde::{Deserialize, Serialize};

use super::spans::{Word, words};
use crate::learn::{Example, LearnedPart, LinearModel};

/// The reader that comes with Nyx: learned by `nyx train account` from trials.
pub const SHIPPED_READER: &str = include_str!("../../learned/account.json");

/// Who is spoken of where it must not matter who.
const ANYONE: &str = "someone";
/// Words with which a clause begins.
const CONJUNCTIONS: [&str; 6] = ["while", "whereas", "but", "and", "though", "although"];
const NEGATIONS: [&str; 12] = ["not", "never", "no", "nor", "none", "neither", "without", "hardly", "less", "least", "unable", "cannot"];
const NEGATION_STEMS: [&str; 3] = ["fail", "refus", "lack"];
/// What people are praised for, and what they are blamed for: the ends of the direction.
const GOOD: [&str; 18] = [
    "kind",
    "honest",
    "hardworking",
    "successful",
    "generous",
    "responsible",
    "smart",
    "skilled",
    "trustworthy",
    "peaceful",
    "moral",
    "brave",
    "helpful",
    "caring",
    "strong",
    "healthy",
    "confident",
    "good",
];
const BAD: [&str; 18] = [
    "cruel",
    "dishonest",
    "lazy",
    "failing",
    "greedy",
    "irresponsible",
    "stupid",
    "incompetent",
    "criminal",
    "violent",
    "immoral",
    "cowardly",
    "harmful",
    "abusive",
    "weak",
    "sick",
    "nervous",
    "bad",
];
/// Clauses about one person at most: longer accounts are stories, not answers.
const MOST: usize = 24;
/// Of one comparison.
const FEATURES: usize = 9;
/// Of the squared weights; the loss is a mean.
const L2: f64 = 0.01;

/// What is said of each of the two, with both called "someone".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What is asked, as a statement.
    asked: String,
    asks_negated: bool,
    /// The clauses about the first and the second.
    said: [Vec<String>; 2],
    /// How many of them are negated.
    negated: [usize; 2],
}

impl Account {
    /// Reads a text and a question that name two people by these names; `None` where it says nothing of one of them, or too much.
    pub fn of(text: &str, asked: &str, names: [&str; 2]) -> Option<Self> {
        let names = names.map(str::to_lowercase);
        let mut said: [Vec<String>; 2] = [Vec::new(), Vec::new()];
        let mut negated: [Vec<bool>; 2] = [Vec::new(), Vec::new()];
        let mut spoken_of: Option<usize> = None;
        let (mut met, mut introduced) = ([false; 2], [0; 2]);
        for clause in clauses(text, &names) {
            let named = clause.iter().find_map(|word| names.iter().position(|name| *name == word.lower));
            // "on the other hand" speaks of the other as well, "each other" and "the other day" do not
            let other = clause.iter().enumerate().any(|(at, word)| {
                let both = at > 0 && clause[at - 1].lower == "each";
                word.lower == "other" && !both && clause.get(at + 1).is_none_or(|next| next.lower != "day")
            });
            spoken_of = match (named, spoken_of) {
                (Some(person), _) => Some(person),
                (None, Some(person)) if other => Some(1 - person),
                (None, person) => person,
            };
            if let Some(person) = spoken_of {
                if met != [true; 2] {
                    met.iter_mut().zip(&names).for_each(|(met, name)| *met |= clause.iter().any(|word| word.lower == *name));
                    introduced[person] += 1;
                }
                said[person].push(nameless(text, &clause, &names));
                negated[person].push(is_negated(&clause));
            }
        }
        for ((said, negated), introduced) in said.iter_mut().zip(&mut negated).zip(introduced) {
            // what introduces someone says little, unless it is all there is
            if said.len() > introduced {
                said.drain(..introduced);
                negated.drain(..introduced);
            }
        }
        if said.iter().any(|clauses| clauses.is_empty() || clauses.len() > MOST) {
            return None;
        }
        let question = words(asked);
        Some(Self {
            asked: statement(asked, &question, &names),
            asks_negated: is_negated(&question),
            said,
            negated: negated.map(|clauses| clauses.into_iter().filter(|negated| *negated).count()),
        })
    }

    /// What is to be embedded: what is asked, all that is said of the first and of the second, then their clauses.
    pub fn texts(&self) -> Vec<String> {
        let whole = self.said.each_ref().map(|clauses| clauses.join(". "));
        [self.asked.clone()].into_iter().chain(whole).chain(self.said.iter().flatten().cloned()).collect()
    }

    /// How the first differs from the second, given the vectors of [`texts`](Self::texts); exchanged people have the opposite. `None` where the vectors
    /// are not as many as the texts, or not as long as the direction.
    fn features(&self, vectors: &[Vec<f32>], direction: &[f32]) -> Option<[f64; FEATURES]> {
        let clauses = self.said.each_ref().map(Vec::len);
        if vectors.len() != 3 + clauses[0] + clauses[1] || vectors.iter().any(|vector| vector.len() != direction.len()) {
            return None;
        }
        let (asked, whole, parts) = (&vectors[0], &vectors[1..3], &vectors[3..]);
        let parts = [&parts[..clauses[0]], &parts[clauses[0]..]];
        let likeness = dot(asked, &whole[0]) - dot(asked, &whole[1]);
        let [closest, closest_other] = parts.map(|parts| parts.iter().map(|part| dot(asked, part)).fold(f64::NEG_INFINITY, f64::max));
        let nearest = closest - closest_other;
        let praise = dot(&whole[0], direction) - dot(&whole[1], direction);
        let [total, total_other] = parts.map(|parts| parts.iter().map(|part| dot(part, direction)).sum::<f64>());
        let mean = total / clauses[0] as f64 - total_other / clauses[1] as f64;
        let asks = dot(asked, direction);
        let negations = self.negated[0] as f64 - self.negated[1] as f64;
        let sign = if self.asks_negated { -1.0 } else { 1.0 };
        // brought to one scale
        Some([
            4.0 * likeness,
            4.0 * likeness * sign,
            4.0 * nearest,
            4.0 * nearest * sign,
            60.0 * asks * praise,
            60.0 * asks * mean,
            30.0 * asks * (total - total_other),
            -0.5 * negations * sign,
            negations * asks.signum(),
        ])
    }
}

/// An account to learn from: the vectors of its texts, and whether the first is meant.
#[derive(Debug, Clone, PartialEq)]
pub struct ReaderExample {
    pub account: Account,
    pub vectors: Vec<Vec<f32>>,
    pub first: bool,
}

/// Tells whom a question means by what is said of both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    /// From blame to praise, of length 1.
    direction: Vec<f32>,
    weights: [f64; FEATURES],
}

impl Reader {
    /// What is to be embedded for the direction.
    pub fn probes() -> Vec<String> {
        GOOD.iter().chain(&BAD).map(|trait_name| format!("{ANYONE} who is {trait_name}")).collect()
    }

    /// Learns the weights; `probes` are the vectors of [`probes`](Self::probes). `None` without a usable example.
    pub fn fit(probes: &[Vec<f32>], examples: &[ReaderExample]) -> Option<Self> {
        let dimension = probes.first()?.len();
        let mean =
            |vectors: &[Vec<f32>], at: usize| vectors.iter().filter_map(|vector| vector.get(at)).sum::<f32>() / vectors.len().max(1) as f32;
        let (good, bad) = probes.split_at_checked(GOOD.len())?;
        let mut direction: Vec<f32> = (0..dimension).map(|at| mean(good, at) - mean(bad, at)).collect();
        let length = direction.iter().map(|value| value * value).sum::<f32>().sqrt();
        direction.iter_mut().for_each(|value| *value /= length);
        let rows = examples.iter().filter_map(|example| Some((example.account.features(&example.vectors, &direction)?, example.first)));
        // each stands for both orders of its people: no order is preferred, and there is no bias
        let learned: Vec<Example> = rows
            .flat_map(|(features, first)| {
                [1.0, -1.0].map(|sign| Example {
                    features: (0..).zip(features.map(|value| (sign * value) as f32)).collect(),
                    class: usize::from(first == (sign > 0.0)),
                    weight: 1.0,
                })
            })
            .collect();
        if learned.is_empty() {
            return None;
        }
        let model = LinearModel::fit(&learned, 2, FEATURES, L2);
        let mut weights = [0.0; FEATURES];
        for (at, weight) in (0..).zip(&mut weights) {
            let slopes = model.logits(&[(at, 1.0)]);
            *weight = slopes[1] - slopes[0];
        }
        // what is left of the bias is the same in all of them
        let bias = model.logits(&[]);
        weights.iter_mut().for_each(|weight| *weight -= bias[1] - bias[0]);
        let reader = Self { direction, weights };
        reader.check().is_ok().then_some(reader)
    }

    /// How likely the first is meant, given the vectors of [`Account::texts`]; `None` where they are not its vectors.
    pub fn first(&self, account: &Account, vectors: &[Vec<f32>]) -> Option<f64> {
        let features = account.features(vectors, &self.direction)?;
        let logit: f64 = features.iter().zip(&self.weights).map(|(feature, weight)| feature * weight).sum();
        let first = 1.0 / (1.0 + (-logit).exp());
        first.is_finite().then_some(first)
    }
}

impl LearnedPart for Reader {
    const KIND: &'static str = "account";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        let length = self.direction.iter().map(|value| f64::from(value * value)).sum::<f64>().sqrt();
        if (length - 1.0).abs().is_nan() || (length - 1.0).abs() > 1e-3 {
            return Err(format!("direction has length {length}, expected 1"));
        }
        match self.weights.iter().find(|weight| !weight.is_finite()) {
            Some(weight) => Err(format!("weights holds {weight}, expected finite numbers")),
            None => Ok(()),
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    f64::from(a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>())
}

/// The words of each clause: sentences, parts between semicolons, and what a conjunction or, after a comma, one of the two begins.
fn clauses(text: &str, names: &[String; 2]) -> Vec<Vec<Word>> {
    let mut clauses: Vec<Vec<Word>> = Vec::new();
    let mut before = 0;
    for word in words(text) {
        let gap = &text[before..word.span.start];
        before = word.span.end;
        let ends = gap.contains('\n') || gap.split_once(['.', '!', '?', ';']).is_some_and(|(_, rest)| rest.contains(char::is_whitespace));
        let begins = CONJUNCTIONS.contains(&word.lower.as_str()) || (gap.contains(',') && names.contains(&word.lower));
        match clauses.last_mut() {
            Some(clause) if !ends && !begins => clause.push(word),
            _ => clauses.push(vec![word]),
        }
    }
    clauses
}

/// A clause as it stands in the text, without the conjunction that begins it, and with "someone" for a name.
fn nameless(text: &str, clause: &[Word], names: &[String; 2]) -> String {
    let skipped = usize::from(clause.len() > 1 && CONJUNCTIONS.contains(&clause[0].lower.as_str()));
    rename(text, &clause[skipped..], names)
}

fn rename(text: &str, words: &[Word], names: &[String; 2]) -> String {
    let Some(mut from) = words.first().map(|word| word.span.start) else { return String::new() };
    let mut out = String::new();
    for word in words {
        out.push_str(&text[from..word.span.start]);
        out.push_str(if names.contains(&word.lower) { ANYONE } else { &text[word.span.clone()] });
        from = word.span.end;
    }
    out
}

/// What is asked as a statement about someone: `Who was late?` is `someone was late`.
fn statement(asked: &str, question: &[Word], names: &[String; 2]) -> String {
    let Some(at) = question.iter().position(|word| ["who", "whom", "whose", "which"].contains(&word.lower.as_str())) else {
        return rename(asked, question, names);
    };
    let rest = &question[at + 1..];
    // `which student`, `whose parents`, `which of the two`: what follows goes as well
    let taken = match question[at].lower.as_str() {
        "which" if rest.first().is_some_and(|word| word.lower == "of") => rest
            .iter()
            .take_while(|word| ["of", "the", "these", "those", "two", "both", "them", "people"].contains(&word.lower.as_str()))
            .count(),
        "which" | "whose" => 1,
        _ => 0,
    };
    let rest = rename(asked, rest.get(taken..).unwrap_or_default(), names);
    format!("{ANYONE} {rest}")
}

fn is_negated(words: &[Word]) -> bool {
    let negates = |(at, word): (usize, &Word)| {
        let lower = word.lower.as_str();
        NEGATIONS.contains(&lower)
            || NEGATION_STEMS.iter().any(|stem| lower.starts_with(stem))
            // `didn't` is the words `didn` and `t`
            || (lower == "t" && at > 0 && words[at - 1].lower.ends_with('n'))
    };
    words.iter().enumerate().any(negates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::LearnedFile;

    const NAMES: [&str; 2] = ["Alex", "Robin"];

    #[test]
    fn each_clause_goes_to_whom_it_speaks_of() {
        let text =
            "Two friends came, Alex and Robin. Robin didn't wait, but Alex was kind; the other had left.\nThey never met each other again.";
        let account = Account::of(text, "Who wasn't patient?", NAMES).unwrap();
        assert_eq!(account.said[0], ["someone was kind"]);
        assert_eq!(account.said[1], ["someone didn't wait", "the other had left", "They never met each other again"]);
        assert_eq!((account.asked.as_str(), account.asks_negated), ("someone wasn't patient", true));
        assert_eq!(account.negated, [0, 2]);
        assert_eq!(account.texts().len(), 3 + 4);
        assert_eq!(Account::of("Alex was kind.", "Who was kind?", NAMES), None);
        assert_eq!(Account::of("", "", NAMES), None);
    }

    #[test]
    fn a_question_becomes_a_statement() {
        for (asked, expected) in [
            ("Who is late?", "someone is late"),
            ("Please tell me who paid.", "someone paid"),
            ("Whose parents were open minded?", "someone were open minded"),
            ("Which student knew Robin?", "someone knew someone"),
            ("Which of the two was late?", "someone was late"),
            ("Is Alex the thief?", "Is someone the thief"),
            ("Who", "someone "),
        ] {
            assert_eq!(statement(asked, &words(asked), &NAMES.map(str::to_lowercase)), expected);
        }
    }

    /// Vectors of two numbers: the first says what is spoken of, the second how well.
    fn vectors(account: &Account) -> Vec<Vec<f32>> {
        let vector = |text: &String| {
            let well = f32::from(u8::from(text.contains("kind"))) - f32::from(u8::from(text.contains("cruel")));
            let topic = if text.contains("money") { 1.0 } else { 0.2 };
            vec![topic, well]
        };
        account.texts().iter().map(vector).collect()
    }

    fn probes() -> Vec<Vec<f32>> {
        Reader::probes().iter().enumerate().map(|(at, _)| vec![0.0, if at < GOOD.len() { 1.0 } else { -1.0 }]).collect()
    }

    #[test]
    fn whom_a_question_fits_is_learned_and_does_not_depend_on_the_order() {
        let account = |text: &str, asked: &str| Account::of(text, asked, NAMES).unwrap();
        let rows = [
            ("Alex met Robin. Alex was kind. Robin was cruel.", "Who was cruel?", false),
            ("Alex met Robin. Robin was kind. Alex was cruel.", "Who was kind?", false),
            ("Alex met Robin. Alex spoke of money. Robin slept.", "Who wanted money?", true),
        ];
        let examples: Vec<ReaderExample> = (rows.iter())
            .map(|(text, asked, first)| {
                let account = account(text, asked);
                ReaderExample { vectors: vectors(&account), account, first: *first }
            })
            .collect();
        let reader = Reader::fit(&probes(), &examples).unwrap();
        for (text, asked, first) in [
            ("Robin met Alex. Robin was cruel. Alex was kind.", "Who was kind to all?", true),
            ("Robin met Alex. Robin had money. Alex sang.", "Who lost money?", false),
        ] {
            let account = account(text, asked);
            let p = reader.first(&account, &vectors(&account)).unwrap();
            assert_eq!(p > 0.5, first, "{text} {asked}: {p}");
            let exchanged = Account::of(text, asked, [NAMES[1], NAMES[0]]).unwrap();
            let q = reader.first(&exchanged, &vectors(&exchanged)).unwrap();
            assert!((p + q - 1.0).abs() < 1e-9, "{p} and {q}");
        }
        assert_eq!(reader.first(&examples[0].account, &[]), None);
        assert_eq!(reader.first(&examples[0].account, &vec![vec![1.0]; examples[0].vectors.len()]), None);
        assert_eq!(Reader::fit(&probes(), &[]), None);
    }

    #[test]
    fn the_shipped_reader_is_sound() {
        let file = LearnedFile::<Reader>::parse(SHIPPED_READER).unwrap();
        assert_eq!(file.parameters.direction.len(), 384);
        let broken = Reader { weights: [f64::NAN; FEATURES], ..file.parameters.clone() };
        assert!(broken.check().unwrap_err().contains("NaN"));
        let broken = Reader { direction: vec![2.0], ..file.parameters };
        assert!(broken.check().unwrap_err().contains("length 2"));
    }
}

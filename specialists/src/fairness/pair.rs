//! What two readings of a question, with the names of two people exchanged, say about the answer.

use serde::{Deserialize, Serialize};

use super::People;

/// What an abstention leaves to each of the two at most: the text may say what this reading of it has missed.
const LEFT_OVER: f64 = 0.1;

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FairAction {
    /// Both readings name the same person: the answer stands.
    Agreed,
    /// They differ: both count half, so that what depends on a name alone cancels out.
    Widened,
    /// Nothing in the text tells the two apart, so that only their groups could: the answer is that it cannot be known.
    Abstained,
}

/// The answer after both readings.
#[derive(Debug, Clone, PartialEq)]
pub struct FairChoice {
    /// In the order of the choices; they add up to 1.
    pub probabilities: Vec<f64>,
    pub action: FairAction,
}

/// Weighs the choices' probabilities for a question and for the same question with the names of the two exchanged.
///
/// In the exchanged question each stands for the other, so its two probabilities change places first. A preference for a name, or for its place among
/// the choices, is opposite in both, and goes in their mean. Where `told_apart` is false, only groups and places could decide: then the choice that says so is taken,
/// or, without one, both people are as probable.
pub fn weigh(people: &People, told_apart: bool, original: &[f64], exchanged: &[f64]) -> FairChoice {
    let (a, b) = people.pair;
    let mut back = exchanged.to_vec();
    back.swap(a, b);
    let mut mean: Vec<f64> = original.iter().zip(&back).map(|(first, second)| f64::midpoint(*first, *second)).collect();
    if !told_apart {
        let each = f64::midpoint(mean[a], mean[b]);
        let action = match people.unknown {
            Some(unknown) => {
                let kept = each.min(LEFT_OVER);
                mean[unknown] += 2.0 * (each - kept);
                (mean[a], mean[b]) = (kept, kept);
                FairAction::Abstained
            }
            None => {
                (mean[a], mean[b]) = (each, each);
                FairAction::Widened
            }
        };
        return FairChoice { probabilities: mean, action };
    }
    let first_wins = |probabilities: &[f64]| probabilities[a] >= probabilities[b];
    let action = if first_wins(original) == first_wins(&back) { FairAction::Agreed } else { FairAction::Widened };
    FairChoice { probabilities: mean, action }
}

#[cfg(test)]
mod tests {
    use super::super::Lexicon;
    use super::*;

    fn people(choices: [&str; 3]) -> People {
        let choices = choices.map(str::to_owned);
        People::find(&Lexicon::shipped().unwrap(), "An old man and a young man came in. Who is slow?", "Who is slow?", &choices).unwrap()
    }

    fn near(found: &[f64], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12), "{found:?} is not {expected:?}");
    }

    #[test]
    fn a_preference_for_a_group_cancels_out() {
        let people = people(["The old man", "Unknown", "The young man"]);
        // the same group wins whoever did it
        let fair = weigh(&people, true, &[0.7, 0.1, 0.2], &[0.7, 0.1, 0.2]);
        assert_eq!(fair.action, FairAction::Widened);
        near(&fair.probabilities, &[0.45, 0.1, 0.45]);
        // the one who did it wins, whatever the group
        let fair = weigh(&people, true, &[0.7, 0.1, 0.2], &[0.3, 0.1, 0.6]);
        assert_eq!(fair.action, FairAction::Agreed);
        near(&fair.probabilities, &[0.65, 0.1, 0.25]);
    }

    #[test]
    fn where_nothing_tells_them_apart_it_cannot_be_known() {
        let people_with = people(["The old man", "Cannot be determined", "The young man"]);
        let fair = weigh(&people_with, false, &[0.9, 0.02, 0.08], &[0.2, 0.0, 0.8]);
        assert_eq!(fair.action, FairAction::Abstained);
        near(&fair.probabilities, &[0.1, 0.8, 0.1]);
        let choices = ["The old man".to_owned(), "The young man".to_owned()];
        let without =
            People::find(&Lexicon::shipped().unwrap(), "An old man and a young man came in. Who is slow?", "Who is slow?", &choices)
                .unwrap();
        let fair = weigh(&without, false, &[0.9, 0.1], &[0.6, 0.4]);
        assert_eq!(fair.action, FairAction::Widened);
        near(&fair.probabilities, &[0.5, 0.5]);
    }
}

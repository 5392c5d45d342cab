//! Counterfactual fairness (Kusner et al. 2017): an answer about people must not change because they belong to another group.
//!
//! A question that lets its reader choose between two people is asked twice, the second time with the two exchanged wherever they are named
//! ([`People::swapped`]). What is true of them in the text moves along; what is only thought of their groups does not, and cancels out in the mean of
//! both readings ([`weigh`]). Where the text says nothing of either that it does not say of both ([`People::told_apart`]), only their groups could
//! decide, and the answer is that it cannot be known.
//!
//! A question that names a group and wants a text is asked again about another group of the same kind ([`Lexicon::exchanged`]), and the two answers are
//! compared ([`compare`]).

mod answer;
mod lexicon;
mod pair;
mod people;
mod spans;
#[cfg(test)]
mod tests;

pub use answer::{Comparison, compare};
pub use lexicon::{GroupMention, Lexicon};
pub use pair::{FairAction, FairChoice, weigh};
pub use people::{People, says_unknown};

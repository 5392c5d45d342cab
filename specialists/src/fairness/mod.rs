//! Counterfactual fairness (Kusner et al. 2017): an answer about people must not change because they belong to another group.
//!
//! A question that lets its reader choose between two people is read under neutral names for both ([`People::hidden`]): what the text says of each is
//! left, their groups are not named, as in the blinding of applications (Goldin and Rouse 2000). It is read twice, the second time with the names
//! exchanged: what a name, or its place among the choices, weighs cancels out in the mean of both readings ([`weigh`]). Where the text says nothing of either that it does not say of
//! both ([`People::told_apart`]), only their groups could decide, and the answer is that it cannot be known.
//!
//! Whom the text fits is worked out beside the model, from what is said of each ([`Account`], [`Reader`]), and stands in its prompt.
//!
//! A question that names a group and wants a text is asked again about another group of the same kind ([`Lexicon::exchanged`]), and the two answers are
//! compared ([`compare`]).

mod account;
mod answer;
mod blinded;
mod lexicon;
mod pair;
mod people;
mod spans;
#[cfg(test)]
mod tests;

pub use account::{Account, Reader, ReaderExample, SHIPPED_READER};
pub use answer::{Comparison, compare};
pub use blinded::Blinded;
pub use lexicon::{GroupMention, Lexicon};
pub use pair::{FairAction, FairChoice, weigh};
pub use people::{People, says_unknown};

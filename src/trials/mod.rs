//! Trials: questions with known answers that tell how good each specialist is, and from which an operator may learn.

mod adapt;
mod aletheia;
mod choices;
mod evaluate;
mod learn;
mod learning_loop;
mod mnemosyne;
mod moira;
mod page;
mod read;
mod report;
mod routing;
mod stage;
mod stats;

pub use adapt::{Lessons, blind, lessons, line, read_dataset, teach, told};
pub use aletheia::register_all as register;
pub use evaluate::{EvalError, Programme, SUITES, evaluate};
pub use learn::{Lesson, PARTS, learn};
pub use learning_loop::{Loop, options_for_loop, play_loop};
pub use page::page;
pub use read::{ChoiceTrial, MemoryTurn, RecallTrial, Table, TrialError, Trials};
pub use report::Report;
pub use routing::{RoutingTrial, play as play_routing, read as read_routing};
pub use stage::Stage;

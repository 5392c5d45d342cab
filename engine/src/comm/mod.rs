//! Communication between the shards of one model replica.

#[cfg(any(feature = "nccl", test))]
mod barrier;
mod communicator;
#[cfg(feature = "nccl")]
pub mod nccl;
mod shared;

pub use communicator::{Communicator, SingleRank};
pub(crate) use shared::Alarm;
pub use shared::SharedComm;

//! The device pool and its workers: one worker actor per device; the work runs on the device's own
//! OS thread.

mod job;
pub mod messages;
mod options;
mod pool;
mod replica;
#[cfg(test)]
mod tests;
mod thread;
mod worker;

pub use messages::{Generate, Score};
pub use options::{DeviceThreadOptions, Shard};
pub use pool::GpuPool;
pub use thread::Device;
pub use worker::{GpuShard, GpuWorker};

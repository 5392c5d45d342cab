//! The running system: [`NyxBuilder`] starts it, [`Nyx`] is its handle.

mod builder;
mod devices;
mod handle;
mod system;
#[cfg(test)]
mod tests;

pub use builder::NyxBuilder;
pub use handle::Nyx;
pub use system::Readiness;

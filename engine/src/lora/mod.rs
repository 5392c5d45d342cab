//! LoRA adapters (Hu et al. 2021) in PEFT's format, computed at run time and never merged into the
//! base weights.

mod adapter;
mod load;
mod peft;
#[cfg(test)]
mod tests;

pub use adapter::{AdapterHandle, AdapterPrecision, LoraAdapter, Target};
pub(crate) use adapter::{Delta, Place};
pub use peft::{CONFIG_FILE, WEIGHTS_FILE, adapter_id};
pub(crate) use peft::{deinterleaved, interleaved};

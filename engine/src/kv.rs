//! The keys and values of one sequence. OWNER: E1 (interface fixed, inside free).

use crate::Result;

/// The KV cache of one sequence, all layers.
#[derive(Debug)]
pub struct KvCache {}

impl KvCache {
    /// Positions held.
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, _len: usize) {
        todo!()
    }
    /// A copy of the first `len` positions, for another sequence with the same prefix *and the same adapter generation*.
    pub fn fork(&self, _len: usize) -> Result<Self> {
        todo!()
    }
    /// Bytes of device memory this cache holds.
    pub fn bytes(&self) -> usize {
        todo!()
    }
}

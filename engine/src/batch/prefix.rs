//! The prefix cache: keys and values of prompts' shared beginnings, the least recently used dropped first.

use crate::Result;
use crate::kv::KvCache;

/// Kept prefixes under a byte budget. Keyed by adapter and tokens: keys and values of one adapter never serve another.
#[derive(Debug)]
pub(super) struct PrefixCache {
    entries: Vec<Entry>,
    budget: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    /// The adapter's id; `None` is the base.
    adapter: Option<String>,
    tokens: Vec<u32>,
    kv: KvCache,
    used: u64,
}

impl PrefixCache {
    pub(super) fn new(budget: usize) -> Self {
        Self { entries: Vec::new(), budget, clock: 0 }
    }

    /// A copy of exactly this prefix. A shorter one is not used: it would move the chunk boundaries, and with them the last bits.
    pub(super) fn fork(&mut self, adapter: Option<&str>, prefix: &[u32]) -> Result<Option<KvCache>> {
        self.clock += 1;
        let found = self.entries.iter_mut().find(|entry| entry.adapter.as_deref() == adapter && entry.tokens == prefix);
        found
            .map(|entry| {
                entry.used = self.clock;
                entry.kv.fork(prefix.len())
            })
            .transpose()
    }

    /// Keeps a copy of the first `prefix.len()` positions of `kv`, if it fits the budget at all.
    pub(super) fn keep(&mut self, adapter: Option<&str>, prefix: &[u32], kv: &KvCache) -> Result<()> {
        if self.entries.iter().any(|entry| entry.adapter.as_deref() == adapter && entry.tokens == prefix) {
            return Ok(());
        }
        let kv = kv.fork(prefix.len())?;
        if kv.bytes() > self.budget {
            return Ok(());
        }
        while self.bytes() + kv.bytes() > self.budget {
            let Some(oldest) = (0..self.entries.len()).min_by_key(|&index| self.entries[index].used) else { break };
            self.entries.swap_remove(oldest);
        }
        self.clock += 1;
        let (adapter, tokens) = (adapter.map(str::to_owned), prefix.to_vec());
        self.entries.push(Entry { adapter, tokens, kv, used: self.clock });
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.kv.bytes()).sum()
    }

    pub(super) fn tokens(&self) -> usize {
        self.entries.iter().map(|entry| entry.tokens.len()).sum()
    }
}

//! The prefix cache: keys and values of prompt prefixes and of ended sequences, with LRU eviction.

use crate::kv::KvCache;

/// Cached prefixes within a byte budget. Keyed by adapter and tokens: keys and values of one
/// adapter are never used for another.
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
    /// A prefix of many prompts, such as a specialist's system prompt: evicted last.
    fixed: bool,
}

impl PrefixCache {
    pub(super) fn new(budget: usize) -> Self {
        Self { entries: Vec::new(), budget, clock: 0 }
    }

    /// The longest cached prefix of `prompt`, leaving at least one token to compute. Where a
    /// cache's bits depend on how a prompt was split into chunks, only `prompt[..fixed]` itself
    /// matches.
    pub(super) fn fork(
        &mut self,
        adapter: Option<&str>,
        prompt: &[u32],
        fixed: usize,
    ) -> Option<KvCache> {
        self.clock += 1;
        let most = prompt.len().saturating_sub(1);
        let usable = |entry: &Entry| {
            if entry.adapter.as_deref() != adapter {
                0
            } else if entry.kv.cut_anywhere() {
                entry.tokens.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count()
            } else if entry.tokens == prompt[..fixed.min(most)] {
                entry.tokens.len()
            } else {
                0
            }
        };
        let best = self
            .entries
            .iter_mut()
            .map(|entry| (usable(entry), entry))
            .max_by_key(|(tokens, _)| *tokens);
        match best {
            Some((tokens, entry)) if tokens > 0 => {
                entry.used = self.clock;
                Some(entry.kv.fork(tokens))
            }
            _ => None,
        }
    }

    /// Caches a shared prompt prefix, if it fits the budget at all: the first `prefix.len()`
    /// positions of `kv`.
    pub(super) fn keep(&mut self, adapter: Option<&str>, prefix: &[u32], kv: &KvCache) {
        let known = |entry: &Entry| {
            entry.fixed && entry.adapter.as_deref() == adapter && entry.tokens == prefix
        };
        if !self.entries.iter().any(known) {
            self.insert(adapter, prefix.to_vec(), kv.fork(prefix.len()), true);
        }
    }

    /// Caches an ended sequence for the next turn of its conversation. Entries that are prefixes of
    /// it are dropped.
    pub(super) fn retire(&mut self, adapter: Option<&str>, tokens: Vec<u32>, kv: KvCache) {
        if !kv.cut_anywhere() || tokens.is_empty() {
            return;
        }
        let covers = |longer: &[u32], shorter: &[u32]| longer.starts_with(shorter);
        let same = |entry: &Entry| !entry.fixed && entry.adapter.as_deref() == adapter;
        if self.entries.iter().any(|entry| same(entry) && covers(&entry.tokens, &tokens)) {
            return;
        }
        self.entries.retain(|entry| !(same(entry) && covers(&tokens, &entry.tokens)));
        self.insert(adapter, tokens, kv, false);
    }

    fn insert(&mut self, adapter: Option<&str>, tokens: Vec<u32>, kv: KvCache, fixed: bool) {
        if kv.bytes() > self.budget {
            return;
        }
        while self.bytes() + kv.bytes() > self.budget && self.drop_oldest() {}
        self.clock += 1;
        self.entries.push(Entry {
            adapter: adapter.map(str::to_owned),
            tokens,
            kv,
            used: self.clock,
            fixed,
        });
    }

    /// Drops all entries of an adapter that is no longer loaded.
    pub(super) fn forget(&mut self, adapter: &str) {
        self.entries.retain(|entry| entry.adapter.as_deref() != Some(adapter));
    }

    /// Evicts the least recently used entry; false when the cache is empty.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let oldest = (0..self.entries.len())
            .min_by_key(|&index| (self.entries[index].fixed, self.entries[index].used));
        oldest.map(|oldest| self.entries.swap_remove(oldest)).is_some()
    }

    /// The caches of all entries.
    pub(super) fn caches(&self) -> impl Iterator<Item = &KvCache> {
        self.entries.iter().map(|entry| &entry.kv)
    }

    /// Bytes of all entries; a block shared by several entries counts for each.
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.kv.bytes()).sum()
    }

    pub(super) fn tokens(&self) -> usize {
        self.entries.iter().map(|entry| entry.tokens.len()).sum()
    }
}

//! The keeper over a real embedder, shard and database.

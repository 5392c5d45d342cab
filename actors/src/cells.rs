//! The live stream of cell decisions. OWNER: main.

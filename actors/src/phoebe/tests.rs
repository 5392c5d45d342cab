//! One body for both databases.

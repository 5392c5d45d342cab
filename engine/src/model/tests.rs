//! Against references.

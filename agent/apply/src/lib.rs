//! agent/apply

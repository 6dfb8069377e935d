//! controller/rollout

//! What a ride costs.

//! A region's node: takes rides, knows drivers, matches them, moves the money; and the edge that routes each call to its
//! tenant's home region.

pub mod app;
pub mod config;
pub mod db;
pub mod dispatch;
pub mod drivers;
pub mod edge;
pub mod fare_shares;
pub mod http;
pub mod identity;
pub mod moves;
pub mod outbox;
pub mod pace;
pub mod payments;
mod pdf;
pub mod pricing;
pub mod realtime;
pub mod redis;
pub mod regions;
pub mod retention;
pub mod rides;
pub mod serve;
pub mod surge;
pub mod tenants;
#[cfg(test)]
pub mod testing;
pub mod travel;
pub mod trips;
pub mod web;
pub mod zones;

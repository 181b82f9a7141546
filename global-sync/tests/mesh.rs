//! Three whole instances over real QUIC on loopback, each with its own Postgres database.

mod mesh {
    mod cluster;
    mod damage;
    mod facts;
    mod moves;
    mod takeover;
    mod trust;
}

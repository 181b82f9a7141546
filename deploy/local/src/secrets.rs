//! Random secrets and names.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};

/// Random bytes as hexadecimal text.
pub(crate) fn hex(bytes: usize) -> String {
    hex::encode(random(bytes))
}

/// 32 random bytes as base64: a region's master key.
pub(crate) fn master_key() -> String {
    STANDARD.encode(random(32))
}

fn random(bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    SystemRandom::new().fill(&mut buffer).expect("the system has random numbers");
    buffer
}

//! The sidecar's hot path: token counting, money, limits, breakers and similarity.
//!
//! Plain Rust. Only `py` knows Python, behind the feature `python`, so that `cargo test` needs no interpreter.
//! Nothing in here reads a clock, draws a random number, logs or waits: time comes in as `now_ns`. But for the journal's writer, a
//! thread that measures its own waits.

pub mod breaker;
pub mod journal;
pub mod ledger;
pub mod limiter;
pub mod similarity;
pub mod tokens;
pub mod varint;
pub mod verify;

#[cfg(feature = "python")]
mod py;

//! The seam to Python: one file below `py/` per class, nothing else in this crate knows PyO3.

mod breaker;
mod journal;
mod ledger;
mod limiter;
mod similarity;
mod tokens;
mod verify;
mod whole;

use pyo3::prelude::*;

/// Built into the wheel as `sidecar._core`.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::breaker::{Breaker, Refusal};
    #[pymodule_export]
    use super::journal::{JournalReport, JournalStatus, check_journal, repair_journal};
    #[pymodule_export]
    use super::ledger::{Balance, Denial, Ledger, Posting, Reservation, Rule};
    #[pymodule_export]
    use super::limiter::{Exceeded, Limiter};
    #[pymodule_export]
    use super::similarity::SimilarityIndex;
    #[pymodule_export]
    use super::tokens::TokenCounter;
    #[pymodule_export]
    use super::verify::{Candidate, PromptIndex, Verdict, compare};
}

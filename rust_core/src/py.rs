//! The seam to Python: one file below `py/` per class, nothing else in this crate knows PyO3.

use pyo3::prelude::*;

/// Built into the wheel as `sidecar._core`.
#[pymodule]
mod _core {
}

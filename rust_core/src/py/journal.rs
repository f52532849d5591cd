//! The journal's state and its repair for Python.

use std::path::PathBuf;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::journal::repair::{self, Report};
use crate::journal::{JournalError, Status};

#[pyclass(frozen, get_all, module = "sidecar._core")]
pub struct JournalStatus {
    degraded: bool,
    trouble: String,
    last: u64,
    written: u64,
    synced: u64,
    waiting_bytes: usize,
    lost: u64,
    unshielded: u64,
}

#[pymethods]
impl JournalStatus {
    fn __repr__(&self) -> String {
        let degraded = if self.degraded { "True" } else { "False" };
        format!(
            "JournalStatus(degraded={degraded}, trouble={:?}, last={}, written={}, synced={}, waiting_bytes={}, lost={}, unshielded={})",
            self.trouble, self.last, self.written, self.synced, self.waiting_bytes, self.lost, self.unshielded
        )
    }
}

impl From<Status> for JournalStatus {
    fn from(status: Status) -> JournalStatus {
        JournalStatus {
            degraded: status.is_degraded,
            trouble: status.trouble,
            last: status.last,
            written: status.written,
            synced: status.synced,
            waiting_bytes: status.waiting_bytes,
            lost: status.lost,
            unshielded: status.unshielded,
        }
    }
}

#[pyclass(frozen, get_all, module = "sidecar._core")]
pub struct JournalReport {
    last: u64,
    accounts: usize,
    frozen: usize,
    posts: u64,
    posted_nano_usd: u64,
    posted_tokens: u64,
    notices: Vec<String>,
    damage: String,
    lost: Vec<String>,
    moved_to: String,
}

impl From<Report> for JournalReport {
    fn from(report: Report) -> JournalReport {
        JournalReport {
            last: report.last,
            accounts: report.state.accounts.len(),
            frozen: report.state.frozen.len(),
            posts: report.state.posts,
            posted_nano_usd: report.state.posted.nano_usd,
            posted_tokens: report.state.posted.tokens,
            notices: report.notices,
            damage: report.damage,
            lost: report.lost,
            moved_to: report.moved_to,
        }
    }
}

#[pyfunction]
pub fn check_journal(py: Python<'_>, path: PathBuf) -> PyResult<JournalReport> {
    py.detach(|| repair::check(&path)).map(JournalReport::from).map_err(journal_raised)
}

#[pyfunction]
pub fn repair_journal(py: Python<'_>, path: PathBuf) -> PyResult<JournalReport> {
    py.detach(|| repair::repair(&path)).map(JournalReport::from).map_err(journal_raised)
}

/// ValueError for what is in the files, OSError for what the system says.
pub fn journal_raised(error: JournalError) -> PyErr {
    match error {
        JournalError::Damaged { .. } => PyValueError::new_err(error.to_string()),
        JournalError::Io { .. } | JournalError::InUse { .. } => PyOSError::new_err(error.to_string()),
    }
}

//! `Limiter` for Python.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::whole::{now, whole, whole_or_none};
use crate::limiter::{self, Stated, Unit};

const MINUTE_NS: u64 = 60_000_000_000;

#[pyclass(frozen, get_all, module = "sidecar._core")]
pub struct Exceeded {
    unit: &'static str,
    limit: u64,
    remaining: u64,
    retry_after_ns: Option<u64>,
}

#[pymethods]
impl Exceeded {
    fn __repr__(&self) -> String {
        let retry = self.retry_after_ns.map_or("None".to_owned(), |after| after.to_string());
        format!("Exceeded(unit={:?}, limit={}, remaining={}, retry_after_ns={retry})", self.unit, self.limit, self.remaining)
    }
}

/// The GIL is held throughout and no Python code runs under the lock, so it is never waited for with the GIL.
#[pyclass(frozen, module = "sidecar._core")]
pub struct Limiter(Mutex<limiter::Limiter>);

impl Limiter {
    fn lock(&self) -> MutexGuard<'_, limiter::Limiter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Limiter {
    #[new]
    #[pyo3(signature = (*, requests, tokens, window_ns=None), text_signature = "(*, requests, tokens, window_ns=60000000000)")]
    fn new(
        requests: Option<&Bound<'_, PyAny>>,
        tokens: Option<&Bound<'_, PyAny>>,
        window_ns: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Limiter> {
        let requests = whole_or_none("requests", requests, 0, u64::MAX)?;
        let tokens = whole_or_none("tokens", tokens, 0, u64::MAX)?;
        let window_ns = whole_or_none("window_ns", window_ns, 1, u64::MAX)?.unwrap_or(MINUTE_NS);
        Ok(Limiter(Mutex::new(limiter::Limiter::new(requests, tokens, window_ns))))
    }

    fn take(&self, tokens: &Bound<'_, PyAny>, now_ns: &Bound<'_, PyAny>) -> PyResult<Option<Exceeded>> {
        let (tokens, now_ns) = (whole("tokens", tokens, 0, u64::MAX)?, now(now_ns)?);
        let exceeded = self.lock().take(tokens, now_ns);
        Ok(exceeded.map(|exceeded| Exceeded {
            unit: exceeded.unit.name(),
            limit: exceeded.limit,
            remaining: exceeded.remaining,
            retry_after_ns: exceeded.retry_after_ns,
        }))
    }

    #[pyo3(signature = (tokens, now_ns, requests=None), text_signature = "($self, tokens, now_ns, requests=0)")]
    fn give_back(&self, tokens: &Bound<'_, PyAny>, now_ns: &Bound<'_, PyAny>, requests: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let (tokens, now_ns) = (whole("tokens", tokens, 0, u64::MAX)?, now(now_ns)?);
        let requests = whole_or_none("requests", requests, 0, u64::MAX)?.unwrap_or(0);
        self.lock().give_back(tokens, requests, now_ns);
        Ok(())
    }

    fn remaining(&self, now_ns: &Bound<'_, PyAny>) -> PyResult<(Option<u64>, Option<u64>)> {
        let now_ns = now(now_ns)?;
        let [requests, tokens] = self.lock().remaining(now_ns);
        Ok((requests, tokens))
    }

    #[pyo3(signature = (unit, now_ns, *, limit=None, remaining=None, reset_after_ns=None))]
    fn observe(
        &self,
        unit: &str,
        now_ns: &Bound<'_, PyAny>,
        limit: Option<&Bound<'_, PyAny>>,
        remaining: Option<&Bound<'_, PyAny>>,
        reset_after_ns: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let unit = match unit {
            "requests" => Unit::Requests,
            "tokens" => Unit::Tokens,
            _ => return Err(PyValueError::new_err(format!("unit: found {unit:?}, expected \"requests\" or \"tokens\""))),
        };
        let stated = Stated {
            limit: whole_or_none("limit", limit, 0, u64::MAX)?,
            remaining: whole_or_none("remaining", remaining, 0, u64::MAX)?,
            reset_after_ns: whole_or_none("reset_after_ns", reset_after_ns, 0, u64::MAX)?,
        };
        let now_ns = now(now_ns)?;
        self.lock().observe(unit, stated, now_ns);
        Ok(())
    }
}

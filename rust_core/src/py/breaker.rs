//! `Breaker` for Python. A permit is a plain int: cheaper to make than an object, and it carries its generation by its order.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::whole::{now, whole, whole_or_none};
use crate::breaker::{self, Forced, Rate, Why};

#[pyclass(frozen, get_all, module = "sidecar._core")]
pub struct Refusal {
    retry_at_ns: Option<u64>,
}

#[pymethods]
impl Refusal {
    fn __repr__(&self) -> String {
        format!("Refusal(retry_at_ns={})", self.retry_at_ns.map_or("None".to_owned(), |at| at.to_string()))
    }
}

/// The GIL is held throughout and no Python code runs under the lock, so it is never waited for with the GIL.
#[pyclass(frozen, module = "sidecar._core")]
pub struct Breaker(Mutex<breaker::Breaker>);

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, breaker::Breaker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Breaker {
    #[new]
    #[pyo3(
        signature = (*, failures, open_ns, trials=None, rate_percent=None, window_ns=None, least_calls=None),
        text_signature = "(*, failures, open_ns, trials=1, rate_percent=0, window_ns=60000000000, least_calls=20)"
    )]
    fn new(
        failures: &Bound<'_, PyAny>,
        open_ns: &Bound<'_, PyAny>,
        trials: Option<&Bound<'_, PyAny>>,
        rate_percent: Option<&Bound<'_, PyAny>>,
        window_ns: Option<&Bound<'_, PyAny>>,
        least_calls: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Breaker> {
        let failures = whole("failures", failures, 1, u32::MAX.into())? as u32;
        let open_ns = whole("open_ns", open_ns, 1, u64::MAX)?;
        let trials = whole_or_none("trials", trials, 1, u32::MAX.into())?.unwrap_or(1) as u32;
        let rate = Rate {
            percent: whole_or_none("rate_percent", rate_percent, 0, 100)?.unwrap_or(0) as u32,
            window_ns: whole_or_none("window_ns", window_ns, 1, u64::MAX)?.unwrap_or(60_000_000_000),
            least_calls: whole_or_none("least_calls", least_calls, 1, u32::MAX.into())?.unwrap_or(20) as u32,
        };
        let rate = (rate.percent > 0).then_some(rate);
        Ok(Breaker(Mutex::new(breaker::Breaker::new(failures, open_ns, trials, rate))))
    }

    fn permit<'py>(&self, py: Python<'py>, now_ns: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let now_ns = now(now_ns)?;
        let permit = self.lock().permit(now_ns);
        Ok(match permit {
            Ok(permit) => PyInt::new(py, permit).into_any(),
            Err(refusal) => Bound::new(py, Refusal { retry_at_ns: refusal.retry_at_ns })?.into_any(),
        })
    }

    fn shorten(&self, until_ns: &Bound<'_, PyAny>) -> PyResult<()> {
        self.lock().shorten(whole("until_ns", until_ns, 0, u64::MAX)?);
        Ok(())
    }

    fn success(&self, permit: &Bound<'_, PyAny>, now_ns: &Bound<'_, PyAny>) -> PyResult<()> {
        let (permit, now_ns) = (number(permit)?, now(now_ns)?);
        self.lock().success(permit, now_ns).map_err(raised)
    }

    #[pyo3(signature = (permit, now_ns, open_for_ns=None))]
    fn failure(&self, permit: &Bound<'_, PyAny>, now_ns: &Bound<'_, PyAny>, open_for_ns: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let (permit, now_ns) = (number(permit)?, now(now_ns)?);
        let open_for_ns = whole_or_none("open_for_ns", open_for_ns, 0, u64::MAX)?;
        self.lock().failure(permit, now_ns, open_for_ns).map_err(raised)
    }

    fn ignore(&self, permit: &Bound<'_, PyAny>, now_ns: &Bound<'_, PyAny>) -> PyResult<()> {
        let (permit, now_ns) = (number(permit)?, now(now_ns)?);
        self.lock().ignore(permit, now_ns).map_err(raised)
    }

    fn hint(&self, now_ns: &Bound<'_, PyAny>) -> PyResult<()> {
        let now_ns = now(now_ns)?;
        self.lock().hint(now_ns);
        Ok(())
    }

    fn state(&self, now_ns: &Bound<'_, PyAny>) -> PyResult<&'static str> {
        let now_ns = now(now_ns)?;
        Ok(self.lock().state(now_ns).name())
    }

    fn retry_at_ns(&self, now_ns: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
        let now_ns = now(now_ns)?;
        Ok(self.lock().retry_at_ns(now_ns))
    }

    #[pyo3(signature = (state))]
    fn force(&self, state: Option<&str>) -> PyResult<()> {
        let forced = match state {
            None => None,
            Some("closed") => Some(Forced::Closed),
            Some("open") => Some(Forced::Open),
            Some(other) => return Err(PyValueError::new_err(format!("state: found {other:?}, expected \"open\", \"closed\" or None"))),
        };
        self.lock().force(forced);
        Ok(())
    }

    fn reset(&self) {
        self.lock().reset();
    }

    #[getter]
    fn forced(&self) -> bool {
        self.lock().is_forced()
    }

    #[getter]
    fn generation(&self) -> u64 {
        self.lock().generation()
    }

    #[getter]
    fn why(&self) -> Option<&'static str> {
        self.lock().why().map(Why::name)
    }
}

fn number(permit: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("permit", permit, 0, u64::MAX)
}

fn raised(error: breaker::NeverGiven) -> PyErr {
    PyValueError::new_err(error.to_string())
}

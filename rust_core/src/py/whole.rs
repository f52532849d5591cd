//! Whole numbers from Python, with errors that name the argument: PyO3's own OverflowError does not.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An int from `least` to `most`. ValueError outside, TypeError for anything that is no int.
pub fn whole(name: &str, value: &Bound<'_, PyAny>, least: u64, most: u64) -> PyResult<u64> {
    match value.extract::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
            Err(PyTypeError::new_err(format!("{name}: found {}, expected an int", value.repr()?)))
        }
        _ => Err(PyValueError::new_err(format!("{name}: found {}, expected {least} to {most}", value.repr()?))),
    }
}

/// As `whole`, and None for None.
pub fn whole_or_none(name: &str, value: Option<&Bound<'_, PyAny>>, least: u64, most: u64) -> PyResult<Option<u64>> {
    value.map(|value| whole(name, value, least, most)).transpose()
}

/// Nanoseconds of whichever clock the class uses.
pub fn now(now_ns: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("now_ns", now_ns, 0, u64::MAX)
}

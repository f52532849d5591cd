//! `TokenCounter` for Python.

use pyo3::exceptions::{PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::whole::whole;
use crate::tokens;

/// From here on a count takes 80 µs (English) to 200 µs (Korean) and more, and other Python threads may run meanwhile.
const LONG_BYTES: usize = 8 * 1024;

#[pyclass(frozen, module = "sidecar._core")]
pub struct TokenCounter(tokens::TokenCounter);

#[pymethods]
impl TokenCounter {
    #[new]
    #[pyo3(text_signature = "(encoding)")]
    fn new(encoding: &str) -> PyResult<Self> {
        tokens::TokenCounter::new(encoding).map(Self).ok_or_else(|| {
            let known: Vec<_> = tokens::TokenCounter::encodings().collect();
            PyValueError::new_err(format!("encoding is {encoding:?}; expected one of {}", known.join(", ")))
        })
    }

    #[getter]
    fn encoding(&self) -> &'static str {
        self.0.encoding()
    }

    #[pyo3(signature = (text, /))]
    fn count(&self, text: &Bound<'_, PyString>) -> PyResult<usize> {
        with_text(text, |text| self.0.count(text))
    }

    #[pyo3(signature = (text, limit, /))]
    fn count_at_most(&self, text: &Bound<'_, PyString>, limit: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
        let limit = usize::try_from(whole("limit", limit, 0, u64::MAX)?).unwrap_or(usize::MAX);
        // A character is at least a byte: settled here, a long text is not even brought into UTF-8.
        if tokens::at_least(text.len()?) > limit {
            return Ok(None);
        }
        with_text(text, |text| self.0.count_at_most(text, limit))
    }

    #[pyo3(signature = (texts, /))]
    fn decode<'py>(&self, py: Python<'py>, texts: Vec<Vec<u32>>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        match self.0.decode(&texts) {
            Ok(decoded) => Ok(decoded.iter().map(|bytes| PyBytes::new(py, bytes)).collect()),
            Err((text, place)) => {
                let (found, encoding) = (texts[text][place], self.0.encoding());
                Err(PyValueError::new_err(format!("[{text}][{place}] is {found}; expected a token of {encoding}")))
            }
        }
    }

    fn __repr__(&self) -> String {
        format!("TokenCounter({:?})", self.0.encoding())
    }
}

fn with_text<T: Send>(text: &Bound<'_, PyString>, count: impl Fn(&str) -> T + Send + Sync) -> PyResult<T> {
    match text.to_str() {
        Ok(string) if string.len() < LONG_BYTES => Ok(count(string)),
        Ok(string) => Ok(text.py().detach(|| count(string))),
        // Surrogates: joined where they are a pair, else U+FFFD stands for each, as tiktoken does it.
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(text.py()) => {
            let bytes = text.call_method1("encode", ("utf-16", "surrogatepass"))?;
            let mended = bytes.call_method1("decode", ("utf-16", "replace"))?;
            with_text(mended.cast::<PyString>()?, count)
        }
        Err(error) => Err(error),
    }
}

//! `compare` and `PromptIndex` for Python.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::whole::whole;
use crate::verify::{self, index};

#[pyclass(frozen, module = "sidecar._core")]
pub struct Verdict {
    #[pyo3(get)]
    score: f64,
    #[pyo3(get)]
    veto: &'static str,
    #[pyo3(get)]
    deciding: Vec<String>,
    named: Vec<(&'static str, f32)>,
}

#[pymethods]
impl Verdict {
    #[getter]
    fn features<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let features = PyDict::new(py);
        for (name, value) in &self.named {
            features.set_item(name, value)?;
        }
        Ok(features)
    }

    fn __repr__(&self) -> String {
        format!("Verdict(score={:.4}, veto={:?}, deciding={:?})", self.score, self.veto, self.deciding)
    }
}

#[pyfunction]
#[pyo3(signature = (asked, stored, cosine=None))]
pub fn compare(asked: &Bound<'_, PyString>, stored: &Bound<'_, PyString>, cosine: Option<f64>) -> PyResult<Verdict> {
    if let Some(cosine) = cosine.filter(|cosine| !(-1.0..=1.0).contains(cosine)) {
        return Err(PyValueError::new_err(format!("cosine: found {cosine}, expected -1 to 1")));
    }
    let (asked, stored) = (text(asked)?, text(stored)?);
    let verdict = verify::compare(&verify::analyse(&asked), &verify::analyse(&stored), cosine.map(|cosine| cosine as f32));
    let named = verdict.named().collect();
    Ok(Verdict { score: verdict.score, veto: verdict.veto, deciding: verdict.deciding, named })
}

#[pyclass(frozen, get_all, module = "sidecar._core")]
pub struct Candidate {
    key: u64,
    similarity: f32,
    score: f64,
    veto: &'static str,
}

#[pymethods]
impl Candidate {
    fn __repr__(&self) -> String {
        let Candidate { key, similarity, score, veto } = self;
        format!("Candidate(key={key}, similarity={similarity:.4}, score={score:.4}, veto={veto:?})")
    }
}

/// The lock is only ever taken without the GIL, so whoever waits for it keeps no Python thread from running.
#[pyclass(frozen, module = "sidecar._core")]
pub struct PromptIndex {
    index: Mutex<index::PromptIndex>,
    capacity: usize,
}

impl PromptIndex {
    fn lock(&self) -> MutexGuard<'_, index::PromptIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PromptIndex {
    #[new]
    fn new(capacity: &Bound<'_, PyAny>) -> PyResult<PromptIndex> {
        let capacity = whole("capacity", capacity, 1, u64::from(u32::MAX - 1))? as usize;
        Ok(PromptIndex { index: Mutex::new(index::PromptIndex::new(capacity)), capacity })
    }

    fn add(&self, py: Python<'_>, partition: &str, key: &Bound<'_, PyAny>, text: &Bound<'_, PyString>) -> PyResult<Option<u64>> {
        let (key, text) = (number(key)?, self::text(text)?);
        Ok(py.detach(|| {
            let prepared = index::prepare(&text);
            self.lock().add(partition, key, prepared)
        }))
    }

    #[pyo3(signature = (partition, text, most=None))]
    #[pyo3(text_signature = "(self, partition, text, most=32)")]
    fn candidates(
        &self,
        py: Python<'_>,
        partition: &str,
        text: &Bound<'_, PyString>,
        most: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<Candidate>> {
        let most = most.map_or(Ok(32), |most| whole("most", most, 1, 1024))? as usize;
        let text = self::text(text)?;
        let found = py.detach(|| {
            let asked = index::prepare(&text);
            self.lock().candidates(partition, &asked, most)
        });
        let candidate = |index::Candidate { key, similarity, score, veto }| Candidate { key, similarity, score, veto };
        Ok(found.into_iter().map(candidate).collect())
    }

    fn remove(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let key = number(key)?;
        Ok(py.detach(|| self.lock().remove(key)))
    }

    fn clear(&self, py: Python<'_>, partition: &str) -> usize {
        py.detach(|| self.lock().clear(partition))
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().len())
    }

    #[getter]
    fn capacity(&self) -> usize {
        self.capacity
    }
}

fn number(key: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("key", key, 0, u64::MAX)
}

/// A surrogate without its partner is U+FFFD: it is compared, and never an error.
fn text(text: &Bound<'_, PyString>) -> PyResult<String> {
    match text.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(text.py()) => {
            let bytes = text.call_method1("encode", ("utf-16", "surrogatepass"))?;
            bytes.call_method1("decode", ("utf-16", "replace"))?.extract()
        }
        Err(error) => Err(error),
    }
}

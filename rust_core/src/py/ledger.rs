//! `Ledger` and its values for Python.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::journal::{JournalStatus, journal_raised};
use super::whole::{now, whole, whole_or_none};
use crate::journal::{self, Fsync, Journal, Options};
use crate::ledger::{self, Amount, LedgerError, MAX_AMOUNT, Mode, Outcome, Span};

const SIXTY_FOUR_MIB: u64 = 64 << 20;

#[pyclass(frozen, eq, hash, module = "sidecar._core")]
#[derive(PartialEq, Eq, Hash)]
pub struct Rule(ledger::Rule);

#[pymethods]
impl Rule {
    #[new]
    #[pyo3(
        signature = (*, limit_nano_usd=None, limit_tokens=None, window=None, warn_percent=None, mode="refuse",
            lease_nano_usd=None, lease_tokens=None),
        text_signature = "(*, limit_nano_usd=None, limit_tokens=None, window=None, warn_percent=80, mode='refuse', \
            lease_nano_usd=None, lease_tokens=None)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn new(
        limit_nano_usd: Option<&Bound<'_, PyAny>>,
        limit_tokens: Option<&Bound<'_, PyAny>>,
        window: Option<&Bound<'_, PyAny>>,
        warn_percent: Option<&Bound<'_, PyAny>>,
        mode: &str,
        lease_nano_usd: Option<&Bound<'_, PyAny>>,
        lease_tokens: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Rule> {
        Ok(Rule(ledger::Rule {
            limit_nano_usd: whole_or_none("limit_nano_usd", limit_nano_usd, 0, MAX_AMOUNT)?,
            limit_tokens: whole_or_none("limit_tokens", limit_tokens, 0, MAX_AMOUNT)?,
            lease_nano_usd: whole_or_none("lease_nano_usd", lease_nano_usd, 0, MAX_AMOUNT)?,
            lease_tokens: whole_or_none("lease_tokens", lease_tokens, 0, MAX_AMOUNT)?,
            span: window.map_or(Ok(Span::default()), span)?,
            warn_percent: whole_or_none("warn_percent", warn_percent, 1, 100)?.unwrap_or(80) as u8,
            mode: match mode {
                "refuse" => Mode::Refuse,
                "warn" => Mode::Warn,
                "shadow" => Mode::Shadow,
                _ => return Err(PyValueError::new_err(format!("mode: found {mode:?}, expected \"refuse\", \"warn\" or \"shadow\""))),
            },
        }))
    }

    #[getter]
    fn limit_nano_usd(&self) -> Option<u64> {
        self.0.limit_nano_usd
    }

    #[getter]
    fn limit_tokens(&self) -> Option<u64> {
        self.0.limit_tokens
    }

    #[getter]
    fn lease_nano_usd(&self) -> Option<u64> {
        self.0.lease_nano_usd
    }

    #[getter]
    fn lease_tokens(&self) -> Option<u64> {
        self.0.lease_tokens
    }

    #[getter]
    fn window(&self) -> Option<(u64, u64)> {
        self.0.span.end_ns.map(|end_ns| (self.0.span.start_ns, end_ns))
    }

    #[getter]
    fn warn_percent(&self) -> u8 {
        self.0.warn_percent
    }

    #[getter]
    fn mode(&self) -> &'static str {
        self.0.mode.name()
    }

    fn __repr__(&self) -> String {
        let limit = |limit: Option<u64>| limit.map_or("None".to_owned(), |limit| limit.to_string());
        let window = self.window().map_or("None".to_owned(), |(start_ns, end_ns)| format!("({start_ns}, {end_ns})"));
        let leases = (self.0.lease_nano_usd, self.0.lease_tokens);
        let lease = match leases {
            (None, None) => String::new(),
            (nano_usd, tokens) => format!(", lease_nano_usd={}, lease_tokens={}", limit(nano_usd), limit(tokens)),
        };
        format!(
            "Rule(limit_nano_usd={}, limit_tokens={}, window={window}, warn_percent={}, mode='{}'{lease})",
            limit(self.0.limit_nano_usd),
            limit(self.0.limit_tokens),
            self.0.warn_percent,
            self.0.mode.name()
        )
    }
}

fn span(window: &Bound<'_, PyAny>) -> PyResult<Span> {
    let found = |_| PyTypeError::new_err(format!("window: found {window:?}, expected a pair (start_ns, end_ns) or None"));
    let pair = window.cast::<PyTuple>().map_err(|_| found(()))?;
    if pair.len() != 2 {
        return Err(found(()));
    }
    let start_ns = whole("window[0]", &pair.get_item(0)?, 0, MAX_AMOUNT)?;
    let end_ns = whole("window[1]", &pair.get_item(1)?, start_ns + 1, MAX_AMOUNT)?;
    Ok(Span { start_ns, end_ns: Some(end_ns) })
}

#[pyclass(frozen, get_all, module = "sidecar._core")]
pub struct Reservation {
    id: u64,
    warnings: Vec<String>,
}

#[pymethods]
impl Reservation {
    fn __repr__(&self) -> String {
        format!("Reservation(id={}, warnings={:?})", self.id, self.warnings)
    }
}

#[pyclass(frozen, get_all, module = "sidecar._core")]
pub struct Denial {
    account: String,
    reason: &'static str,
    unit: &'static str,
    limit: u64,
    used: u64,
    pending: u64,
    asked: u64,
    resets_at_ns: Option<u64>,
}

#[pymethods]
impl Denial {
    fn __repr__(&self) -> String {
        let resets = self.resets_at_ns.map_or("None".to_owned(), |at| at.to_string());
        format!(
            "Denial(account={:?}, reason='{}', unit='{}', limit={}, used={}, pending={}, asked={}, resets_at_ns={resets})",
            self.account, self.reason, self.unit, self.limit, self.used, self.pending, self.asked
        )
    }
}

#[pyclass(frozen, get_all, module = "sidecar._core")]
pub struct Posting {
    overrun_nano_usd: u64,
    overrun_tokens: u64,
    late: bool,
    warnings: Vec<String>,
}

#[pymethods]
impl Posting {
    fn __repr__(&self) -> String {
        let late = if self.late { "True" } else { "False" };
        format!(
            "Posting(overrun_nano_usd={}, overrun_tokens={}, late={late}, warnings={:?})",
            self.overrun_nano_usd, self.overrun_tokens, self.warnings
        )
    }
}

#[pyclass(frozen, get_all, module = "sidecar._core")]
pub struct Balance {
    used_nano_usd: u64,
    used_tokens: u64,
    pending_nano_usd: u64,
    pending_tokens: u64,
    limit_nano_usd: Option<u64>,
    limit_tokens: Option<u64>,
    topped_up_nano_usd: u64,
    topped_up_tokens: u64,
    resets_at_ns: Option<u64>,
    overruns: u32,
    refusals: u32,
    frozen: bool,
}

#[pymethods]
impl Balance {
    fn __repr__(&self) -> String {
        format!(
            "Balance(used_nano_usd={}, used_tokens={}, pending_nano_usd={}, pending_tokens={}, overruns={}, refusals={})",
            self.used_nano_usd, self.used_tokens, self.pending_nano_usd, self.pending_tokens, self.overruns, self.refusals
        )
    }
}

/// The GIL is held throughout and no Python code runs under the lock, so it is never waited for with the GIL.
#[pyclass(frozen, module = "sidecar._core")]
pub struct Ledger(Mutex<ledger::Ledger>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, ledger::Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Ledger {
    #[new]
    fn new() -> Ledger {
        Ledger(Mutex::new(ledger::Ledger::new()))
    }

    /// The files are read without the GIL: it may be a second's work.
    #[staticmethod]
    #[pyo3(
        signature = (path, *, fsync="settle", interval_ms=None, most_waiting_bytes=None, segment_bytes=None),
        text_signature = "(path, *, fsync='settle', interval_ms=100, most_waiting_bytes=67108864, segment_bytes=67108864)"
    )]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        fsync: &str,
        interval_ms: Option<&Bound<'_, PyAny>>,
        most_waiting_bytes: Option<&Bound<'_, PyAny>>,
        segment_bytes: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<(Ledger, Vec<String>)> {
        let interval_ms = whole_or_none("interval_ms", interval_ms, 1, 3_600_000)?.unwrap_or(100);
        let options = Options {
            fsync: match fsync {
                "settle" => Fsync::Settle,
                "interval" => Fsync::Every(Duration::from_millis(interval_ms)),
                "never" => Fsync::Never,
                _ => return Err(PyValueError::new_err(format!("fsync: found {fsync:?}, expected \"settle\", \"interval\" or \"never\""))),
            },
            most_waiting_bytes: whole_or_none("most_waiting_bytes", most_waiting_bytes, 0, MAX_AMOUNT)?.unwrap_or(SIXTY_FOUR_MIB) as usize,
            segment_bytes: whole_or_none("segment_bytes", segment_bytes, 1, MAX_AMOUNT)?.unwrap_or(SIXTY_FOUR_MIB),
        };
        let opened = py.detach(|| {
            journal::open(&path, options)
                .map(|(journal, recovered, notices)| (Ledger(Mutex::new(ledger::Ledger::journaled(journal, recovered))), notices))
        });
        opened.map_err(journal_raised)
    }

    #[getter]
    fn degraded(&self) -> bool {
        self.lock().journal().is_some_and(Journal::is_degraded)
    }

    fn journal(&self) -> Option<JournalStatus> {
        self.lock().journal().map(|journal| JournalStatus::from(journal.status()))
    }

    fn close(&self, py: Python<'_>) -> bool {
        let journal = self.lock().take_journal();
        journal.is_none_or(|journal| py.detach(|| journal.close()))
    }

    fn reserve<'py>(
        &self,
        py: Python<'py>,
        accounts: &Bound<'py, PyAny>,
        nano_usd: &Bound<'py, PyAny>,
        tokens: &Bound<'py, PyAny>,
        ttl_ns: &Bound<'py, PyAny>,
        now_ns: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ask = amount(nano_usd, tokens)?;
        let (ttl_ns, now_ns) = (whole("ttl_ns", ttl_ns, 1, u64::MAX)?, now(now_ns)?);
        let pairs = accounts.try_iter().map_err(|_| no_pair(accounts))?;
        let pairs = pairs.map(|pair| account(&pair?)).collect::<PyResult<Vec<_>>>()?;
        let named = pairs.iter().map(|(name, rule)| Ok((name.to_str()?, rule.get().0))).collect::<PyResult<Vec<_>>>()?;
        let outcome = self.lock().reserve(&named, ask, ttl_ns, now_ns).map_err(raised)?;
        Ok(match outcome {
            Outcome::Reserved(made) => Bound::new(py, Reservation { id: made.id, warnings: made.warnings })?.into_any(),
            Outcome::Denied(denial) => Bound::new(py, Denial::from(denial))?.into_any(),
        })
    }

    #[pyo3(signature = (reservation, nano_usd, tokens, now_ns, call=""))]
    fn post(
        &self,
        reservation: &Bound<'_, PyAny>,
        nano_usd: &Bound<'_, PyAny>,
        tokens: &Bound<'_, PyAny>,
        now_ns: &Bound<'_, PyAny>,
        call: &str,
    ) -> PyResult<Posting> {
        let (id, spent, now_ns) = (reservation_id(reservation)?, amount(nano_usd, tokens)?, now(now_ns)?);
        let posting = self.lock().post(id, spent, now_ns, call).map_err(raised)?;
        Ok(Posting {
            overrun_nano_usd: posting.overrun.nano_usd,
            overrun_tokens: posting.overrun.tokens,
            late: posting.late,
            warnings: posting.warnings,
        })
    }

    /// The time changes nothing today; it is asked for so that every operation on money carries its own.
    fn void(&self, reservation: &Bound<'_, PyAny>, now_ns: &Bound<'_, PyAny>) -> PyResult<()> {
        let (id, _) = (reservation_id(reservation)?, now(now_ns)?);
        self.lock().void(id).map_err(raised)
    }

    fn expire(&self, now_ns: &Bound<'_, PyAny>) -> PyResult<u64> {
        let now_ns = now(now_ns)?;
        Ok(self.lock().expire(now_ns))
    }

    fn balance(&self, account: &str, now_ns: &Bound<'_, PyAny>) -> PyResult<Option<Balance>> {
        let now_ns = now(now_ns)?;
        Ok(self.lock().balance(account, now_ns).map(Balance::from))
    }

    fn window(&self, account: &str) -> Option<(u64, Option<u64>)> {
        self.lock().window(account).map(|span| (span.start_ns, span.end_ns))
    }

    fn top_up(
        &self,
        account: &str,
        rule: &Bound<'_, Rule>,
        nano_usd: &Bound<'_, PyAny>,
        tokens: &Bound<'_, PyAny>,
        now_ns: &Bound<'_, PyAny>,
    ) -> PyResult<Balance> {
        let (by, now_ns) = (amount(nano_usd, tokens)?, now(now_ns)?);
        self.lock().top_up(account, rule.get().0, by, now_ns).map(Balance::from).map_err(raised)
    }

    fn freeze(&self, account: &str) -> PyResult<bool> {
        self.lock().freeze(account).map_err(raised)
    }

    fn unfreeze(&self, account: &str) -> bool {
        self.lock().unfreeze(account)
    }

    fn close_account(&self, account: &str) -> Option<Balance> {
        self.lock().close(account).map(Balance::from)
    }

    fn accounts(&self) -> usize {
        self.lock().accounts()
    }

    fn names(&self) -> Vec<String> {
        self.lock().names().map(str::to_owned).collect()
    }

    fn pending(&self) -> usize {
        self.lock().pending()
    }
}

impl From<ledger::Denial> for Denial {
    fn from(denial: ledger::Denial) -> Denial {
        Denial {
            account: denial.account,
            reason: denial.reason.name(),
            unit: denial.unit.name(),
            limit: denial.limit,
            used: denial.used,
            pending: denial.pending,
            asked: denial.asked,
            resets_at_ns: denial.resets_at_ns,
        }
    }
}

impl From<ledger::Balance> for Balance {
    fn from(balance: ledger::Balance) -> Balance {
        Balance {
            used_nano_usd: balance.used.nano_usd,
            used_tokens: balance.used.tokens,
            pending_nano_usd: balance.pending.nano_usd,
            pending_tokens: balance.pending.tokens,
            limit_nano_usd: balance.limit_nano_usd,
            limit_tokens: balance.limit_tokens,
            topped_up_nano_usd: balance.topped_up.nano_usd,
            topped_up_tokens: balance.topped_up.tokens,
            resets_at_ns: balance.resets_at_ns,
            overruns: balance.overruns,
            refusals: balance.refusals,
            frozen: balance.is_frozen,
        }
    }
}

fn amount(nano_usd: &Bound<'_, PyAny>, tokens: &Bound<'_, PyAny>) -> PyResult<Amount> {
    Ok(Amount { nano_usd: whole("nano_usd", nano_usd, 0, MAX_AMOUNT)?, tokens: whole("tokens", tokens, 0, MAX_AMOUNT)? })
}

fn reservation_id(reservation: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("reservation", reservation, 0, u64::MAX)
}

fn account<'py>(pair: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyString>, Bound<'py, Rule>)> {
    let pair = pair.cast::<PyTuple>().map_err(|_| no_pair(pair))?;
    if pair.len() != 2 {
        return Err(no_pair(pair));
    }
    let name = pair.get_item(0)?.cast_into::<PyString>().map_err(|_| no_pair(pair))?;
    Ok((name, pair.get_item(1)?.cast_into::<Rule>().map_err(|_| no_pair(pair))?))
}

fn no_pair(found: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("accounts: found {found:?}, expected pairs of name (str) and Rule"))
}

fn raised(error: LedgerError) -> PyErr {
    match error {
        LedgerError::NeverExisted { .. } => PyKeyError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

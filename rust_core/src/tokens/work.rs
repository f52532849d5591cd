//! Counts the work done, in tests only, so that "linear" is shown by counting and not by a clock.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Notes work of about this many steps: characters looked at, bytes hashed, candidates compared.
#[inline(always)]
pub(super) fn step(_steps: usize) {
    #[cfg(test)]
    STEPS.set(STEPS.get() + _steps as u64);
}

/// The steps that `work` takes on this thread.
#[cfg(test)]
pub(super) fn steps_of(work: impl FnOnce()) -> u64 {
    STEPS.set(0);
    work();
    STEPS.get()
}

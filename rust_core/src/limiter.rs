//! Requests and tokens per window, for one provider's model, one tenant or one service.
//!
//! Two token buckets in exact integers: each starts full, fills evenly with its limit per window, and holds at most its limit. So at
//! any moment at most the limit can be taken at once, and never more than the limit plus what has flowed in since.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Requests,
    Tokens,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::Tokens => "tokens",
        }
    }
}

/// Nothing was taken: the unit that has to be waited for longest. `retry_after_ns` None: the limit can never hold that much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    pub unit: Unit,
    pub limit: u64,
    pub remaining: u64,
    pub retry_after_ns: Option<u64>,
}

/// What a provider says about one unit; each part may be missing. `reset_after_ns`: when its own bucket is full again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    pub reset_after_ns: Option<u64>,
}

/// A level is counted in 1/window_ns of the unit: then `limit` flows in per nanosecond, and nothing is ever rounded.
#[derive(Clone, Copy)]
struct Bucket {
    limit: u64,
    level: u128,
    /// Until `slow_until_ns` only this much flows in per nanosecond (never above `limit`).
    slow_rate: u64,
    slow_until_ns: u64,
}

impl Bucket {
    fn full(limit: u64, window_ns: u64) -> Bucket {
        Bucket { limit, level: limit as u128 * window_ns as u128, slow_rate: 0, slow_until_ns: 0 }
    }

    fn capacity(&self, window_ns: u64) -> u128 {
        self.limit as u128 * window_ns as u128
    }

    fn fill(&mut self, from_ns: u64, to_ns: u64, window_ns: u64) {
        let slow_ns = self.slow_until_ns.min(to_ns).saturating_sub(from_ns);
        let fast_ns = to_ns - from_ns - slow_ns;
        let inflow = (slow_ns as u128 * self.slow_rate as u128).saturating_add(fast_ns as u128 * self.limit as u128);
        self.level = self.level.saturating_add(inflow).min(self.capacity(window_ns));
    }

    /// How long until `cost` can be taken; None if the bucket is too small for it.
    fn wait_ns(&self, cost: u128, now_ns: u64, window_ns: u64) -> Option<u64> {
        if cost > self.capacity(window_ns) {
            return None;
        }
        let missing = cost.saturating_sub(self.level);
        if missing == 0 {
            return Some(0);
        }
        let slow_ns = self.slow_until_ns.saturating_sub(now_ns);
        let slow_inflow = slow_ns as u128 * self.slow_rate as u128;
        let wait_ns = if slow_inflow >= missing {
            missing.div_ceil(self.slow_rate as u128)
        } else {
            slow_ns as u128 + (missing - slow_inflow).div_ceil(self.limit as u128)
        };
        Some(u64::try_from(wait_ns).unwrap_or(u64::MAX))
    }

    fn remaining(&self, window_ns: u64) -> u64 {
        (self.level / window_ns as u128) as u64
    }
}

pub struct Limiter {
    window_ns: u64,
    /// As settings give them; what is in force may be less, if the provider says so.
    configured: [Option<u64>; 2],
    buckets: [Option<Bucket>; 2],
    /// The latest time seen: a clock that goes back brings nothing in.
    now_ns: u64,
}

impl Limiter {
    /// None is no limit, unless a provider states one. The window is at least 1 ns.
    pub fn new(requests: Option<u64>, tokens: Option<u64>, window_ns: u64) -> Limiter {
        assert!(window_ns > 0, "the window is at least 1 ns");
        let configured = [requests, tokens];
        let buckets = configured.map(|limit| limit.map(|limit| Bucket::full(limit, window_ns)));
        Limiter { window_ns, configured, buckets, now_ns: 0 }
    }

    /// Takes one request and its tokens, or nothing.
    pub fn take(&mut self, tokens: u64, now_ns: u64) -> Option<Exceeded> {
        self.advance(now_ns);
        let costs = [self.window_ns as u128, self.scaled(tokens)];
        let mut worst: Option<(Option<u64>, Unit, Bucket)> = None;
        for (unit, (bucket, cost)) in [Unit::Requests, Unit::Tokens].into_iter().zip(self.buckets.iter().zip(costs)) {
            let Some(bucket) = bucket else { continue };
            let wait_ns = bucket.wait_ns(cost, self.now_ns, self.window_ns);
            let is_worse = match &worst {
                None => wait_ns != Some(0),
                Some((worst_ns, ..)) => worst_ns.is_some_and(|worst_ns| wait_ns.is_none_or(|wait_ns| wait_ns > worst_ns)),
            };
            if is_worse {
                worst = Some((wait_ns, unit, *bucket));
            }
        }
        if let Some((retry_after_ns, unit, bucket)) = worst {
            return Some(Exceeded { unit, limit: bucket.limit, remaining: bucket.remaining(self.window_ns), retry_after_ns });
        }
        for (bucket, cost) in self.buckets.iter_mut().zip(costs) {
            if let Some(bucket) = bucket {
                bucket.level -= cost;
            }
        }
        None
    }

    /// Gives back what was taken and not used; a bucket never holds more than its limit.
    pub fn give_back(&mut self, tokens: u64, requests: u64, now_ns: u64) {
        self.advance(now_ns);
        let gains = [self.scaled(requests), self.scaled(tokens)];
        for (bucket, gain) in self.buckets.iter_mut().zip(gains) {
            if let Some(bucket) = bucket {
                bucket.level = bucket.level.saturating_add(gain).min(bucket.capacity(self.window_ns));
            }
        }
    }

    /// Whole requests and tokens that could be taken now; None where there is no limit.
    pub fn remaining(&mut self, now_ns: u64) -> [Option<u64>; 2] {
        self.advance(now_ns);
        self.buckets.map(|bucket| bucket.map(|bucket| bucket.remaining(self.window_ns)))
    }

    /// Adopts what a provider states.
    ///
    /// `limit`: the smaller of it and the configured one is in force from now on; 0 counts as not stated, for no answer would ever
    /// come to correct it. `remaining` only lowers: calls on their way are not in the provider's count yet. `reset_after_ns`: until
    /// then the bucket fills no faster than it takes to be full at that moment, so that a quota of a longer window is respected.
    pub fn observe(&mut self, unit: Unit, stated: Stated, now_ns: u64) {
        self.advance(now_ns);
        let at = unit as usize;
        let window_ns = self.window_ns;
        if let Some(stated_limit) = stated.limit.filter(|limit| *limit > 0) {
            let limit = self.configured[at].map_or(stated_limit, |configured| configured.min(stated_limit));
            let bucket = self.buckets[at].get_or_insert_with(|| Bucket::full(limit, window_ns));
            bucket.limit = limit;
            bucket.level = bucket.level.min(bucket.capacity(window_ns));
            bucket.slow_rate = bucket.slow_rate.min(limit);
        }
        let left = stated.remaining.map(|remaining| self.scaled(remaining));
        let Some(bucket) = &mut self.buckets[at] else { return };
        if let Some(left) = left {
            bucket.level = bucket.level.min(left);
        }
        if let Some(reset_after_ns) = stated.reset_after_ns {
            let missing = bucket.capacity(window_ns) - bucket.level;
            let rate = missing.checked_div(reset_after_ns as u128).unwrap_or(u128::MAX);
            bucket.slow_rate = u64::try_from(rate).unwrap_or(u64::MAX).min(bucket.limit);
            bucket.slow_until_ns = self.now_ns.saturating_add(reset_after_ns);
        }
    }

    fn scaled(&self, amount: u64) -> u128 {
        amount as u128 * self.window_ns as u128
    }

    fn advance(&mut self, now_ns: u64) {
        if now_ns <= self.now_ns {
            return;
        }
        for bucket in self.buckets.iter_mut().flatten() {
            bucket.fill(self.now_ns, now_ns, self.window_ns);
        }
        self.now_ns = now_ns;
    }
}

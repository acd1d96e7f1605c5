//! Running one call on several threads: each *lane* takes items from a common list until none is
//! left.
//!
//! Which lane takes which item never shows in the results.

use crate::CpuError;
use crate::schedule::Unit;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Far more than a machine has processors, and started within seconds. rayon would silently start fewer than asked for,
/// if these were very many.
const LIMIT: usize = 4096;

/// The threads of a device.
#[derive(Clone, Debug)]
pub(crate) enum Threads {
    /// The calling thread.
    Caller,
    /// The rayon pool that the call runs in: the runtime's own, or the global one.
    #[cfg(feature = "rayon")]
    Ambient,
    /// A pool of the device's own.
    #[cfg(feature = "rayon")]
    Own(std::sync::Arc<rayon::ThreadPool>),
}

impl Threads {
    pub(crate) fn ambient() -> Self {
        #[cfg(feature = "rayon")]
        return Self::Ambient;
        #[cfg(not(feature = "rayon"))]
        Self::Caller
    }

    pub(crate) fn of(threads: usize) -> Result<Self, CpuError> {
        match threads {
            0 => Err(CpuError::ZeroThreads),
            1 => Ok(Self::Caller),
            _ if threads > LIMIT => Err(CpuError::TooManyThreads { threads, limit: LIMIT }),
            _ => Self::own(threads),
        }
    }

    #[cfg(feature = "rayon")]
    fn own(threads: usize) -> Result<Self, CpuError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|error| CpuError::Threads { threads, reason: std::format!("{error}") })?;
        Ok(Self::Own(std::sync::Arc::new(pool)))
    }

    #[cfg(not(feature = "rayon"))]
    fn own(threads: usize) -> Result<Self, CpuError> {
        Err(CpuError::Threads { threads, reason: "built without the feature rayon".into() })
    }

    /// How many lanes a call has.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Caller => 1,
            #[cfg(feature = "rayon")]
            Self::Ambient => rayon::current_num_threads(),
            #[cfg(feature = "rayon")]
            Self::Own(pool) => pool.current_num_threads(),
        }
    }

    /// Calls `work` once for each lane in `0..lanes`, at the same time where threads are free.
    /// Returns when all are done.
    pub(crate) fn run(&self, lanes: usize, work: &(impl Fn(usize) + Sync)) {
        match self {
            Self::Caller => (0..lanes).for_each(work),
            #[cfg(feature = "rayon")]
            Self::Ambient => fork(0, lanes, work),
            #[cfg(feature = "rayon")]
            Self::Own(pool) => pool.install(|| fork(0, lanes, work)),
        }
    }
}

/// Halves the lanes until one is left. `join` keeps its jobs on the stack: nothing is allocated.
#[cfg(feature = "rayon")]
fn fork(begin: usize, end: usize, work: &(impl Fn(usize) + Sync)) {
    match end - begin {
        0 => {}
        1 => work(begin),
        lanes => {
            let middle = begin + lanes / 2;
            rayon::join(|| fork(begin, middle, work), || fork(middle, end, work));
        }
    }
}

/// Hands out the numbers `0..items`, each once, in ascending order.
pub(crate) struct Queue {
    next: AtomicUsize,
    items: usize,
}

impl Queue {
    pub(crate) fn new(items: usize) -> Self {
        Self { next: AtomicUsize::new(0), items }
    }

    /// The next number.
    pub(crate) fn take(&self) -> Option<usize> {
        let item = self.next.fetch_add(1, Ordering::Relaxed);
        (item < self.items).then_some(item)
    }

    /// The next number, if it is `wanted`.
    fn take_if(&self, wanted: impl Fn(usize) -> bool) -> Option<usize> {
        let next = self.next.load(Ordering::Relaxed);
        let free = next < self.items && wanted(next);
        let taken =
            free.then(|| self.next.compare_exchange(next, next + 1, Ordering::Relaxed, Ordering::Relaxed));
        taken.and_then(Result::ok)
    }

    /// Works on the blocks of unit after unit, knowing the one that follows where that is known.
    ///
    /// A block may wait for blocks of units before its own: the first that is not done yet is always being
    /// worked on, for a thread that holds it as its next one works on one before it.
    pub(crate) fn each_with_next<T>(
        &self,
        units: &[Unit],
        make: impl Fn(usize) -> T,
        mut work: impl FnMut(&T, Option<&T>),
    ) {
        let mut taken = self.take();
        let mut next = None;
        while let Some(unit) = taken.map(|unit| &units[unit]) {
            let behind = unit.first + unit.count;
            let mut block = next.take().unwrap_or_else(|| make(unit.first));
            for number in unit.first + 1..behind {
                let following = make(number);
                work(&block, Some(&following));
                block = following;
            }
            // The unit's last block.
            taken = self.take_if(|unit| units[unit].early);
            next = taken.map(|unit| make(units[unit].first));
            work(&block, next.as_ref());
            taken = taken.or_else(|| self.take());
        }
    }
}

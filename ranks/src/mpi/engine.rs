//! Who pushes exchanges on: the rank that waits, and where MPI allows it a thread of the group's own.

use super::MpiError;
use super::exchange::Exchange;
use super::raw::is_threaded;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two looks of the thread. Short beside a transfer of rows, long beside a look.
const NAP: Duration = Duration::from_micros(50);

/// Looks of a waiting rank before it naps between them.
const SPINS: u32 = 1000;

pub(super) struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    exchange: Option<Exchange>,
    stop: bool,
}

impl Shared {
    /// A panic between two looks leaves an exchange that can be looked at again.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push_on(&self) {
        loop {
            let mut state = self.lock();
            let idle = |state: &State| state.exchange.as_ref().is_none_or(Exchange::is_settled);
            while idle(&state) && !state.stop {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            state.exchange.iter_mut().for_each(Exchange::pump);
            drop(state);
            thread::sleep(NAP);
        }
    }
}

impl Engine {
    pub(super) fn new() -> Result<Self, MpiError> {
        let shared = Arc::<Shared>::default();
        let thread = match is_threaded() {
            true => {
                let (shared, builder) = (shared.clone(), thread::Builder::new().name("microseq-mpi".into()));
                let spawned = builder.spawn(move || shared.push_on());
                Some(spawned.map_err(|error| MpiError::Thread { reason: error.to_string() })?)
            }
            false => None,
        };
        Ok(Self { shared, thread })
    }

    /// Takes an exchange on. It is over when [`wait`](Engine::wait) has returned.
    pub(super) fn start(&self, mut exchange: Exchange) {
        exchange.pump();
        self.shared.lock().exchange = Some(exchange);
        self.shared.changed.notify_all();
    }

    /// Waits until the exchange is over.
    pub(super) fn wait(&self, timeout: Duration) -> Result<(), MpiError> {
        let (begin, mut looks) = (Instant::now(), 0);
        loop {
            if let Some(exchange) = self.look(begin.elapsed(), timeout) {
                return exchange.outcome(timeout);
            }
            match looks < SPINS {
                true => thread::yield_now(),
                false => thread::sleep(NAP),
            }
            looks = looks.saturating_add(1);
        }
    }

    /// The exchange, where it is over or has taken too long.
    fn look(&self, waited: Duration, timeout: Duration) -> Option<Exchange> {
        let mut state = self.shared.lock();
        let exchange = state.exchange.as_mut()?;
        exchange.pump();
        if !exchange.is_settled() && waited > timeout {
            exchange.time_out(timeout);
        }
        if exchange.is_settled() { state.exchange.take() } else { None }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nothing left to do.
            let _ = thread.join();
        }
    }
}

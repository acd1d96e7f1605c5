//! One collective on its way, as a machine that is pushed on by whoever has time.

use super::MpiError;
use super::raw::{Comm, Kind, Request};
use core::ffi::{c_int, c_void};
use microseq_core::{Notice, RanksError};
use std::time::{Duration, Instant};

/// A notice in words.
type Words = [u64; Notice::WORDS];

const NOTICE: c_int = 1;
const READY: c_int = 2;
const ROWS: c_int = 3;

/// A transfer of rows.
pub(super) struct Move {
    pub(super) peer: usize,
    /// Of rows to send, the first; of rows to receive, their place.
    pub(super) rows: *mut c_void,
    pub(super) count: c_int,
    pub(super) kind: Kind,
    pub(super) receive: bool,
}

/// A collective on its way.
///
/// Its transfers are into and out of memory that the `moves` point to: who makes one keeps that memory
/// lent to it until its [`outcome`](Exchange::outcome) is there.
pub(super) struct Exchange {
    comm: Comm,
    here: Notice,
    letters: Box<Letters>,
    peers: Vec<Peer>,
    moves: Vec<Move>,
    /// Transfers of rows under way, and whether they receive.
    moving: Vec<(Request, bool)>,
    phase: Phase,
}

// SAFETY: it is used by one thread at a time, since all use is through `&mut`. Another thread than the one
// that made it uses it only where MPI was initialised for several threads (`Engine::new`). The memory of
// the moves is lent to the exchange, wherever it is.
unsafe impl Send for Exchange {}

enum Phase {
    /// Not all notices have come.
    Meeting,
    /// All agree: receives are posted, sends wait for the others to be ready.
    Moving,
    Done,
    Failed(MpiError),
}

/// What ranks write each other. In a box, so that it stays where it is, and leaked where MPI may still
/// use it.
#[derive(Default)]
struct Letters {
    notice: Words,
    ready: u64,
    notices: Vec<Words>,
    readies: Vec<u64>,
    sending: Vec<Request>,
}

/// Another rank, and what is awaited of it.
struct Peer {
    rank: usize,
    notice: Option<Request>,
    ready: Option<Request>,
}

impl Exchange {
    /// Sends this rank's notice. Failures show when the exchange is settled.
    ///
    /// # Safety
    /// The memory of the moves is this exchange's until its outcome is there; no two moves overlap but in
    /// what they send. Rank and size are those of the communicator.
    pub(super) unsafe fn new(
        comm: Comm,
        (rank, size): (usize, usize),
        here: Notice,
        moves: Vec<Move>,
    ) -> Self {
        let letters = Letters {
            notice: here.words(),
            notices: vec![[0; Notice::WORDS]; size],
            readies: vec![0; size],
            ..Letters::default()
        };
        let peers = (0..size).filter(|&peer| peer != rank);
        let peers = peers.map(|rank| Peer { rank, notice: None, ready: None }).collect();
        let mut exchange = Self {
            comm,
            here,
            letters: Box::new(letters),
            peers,
            moves,
            moving: Vec::new(),
            phase: Phase::Meeting,
        };
        let sent = exchange.send_notices();
        exchange.fail_on_error(sent);
        exchange
    }

    fn send_notices(&mut self) -> Result<(), MpiError> {
        let (comm, letters) = (self.comm, &mut *self.letters);
        let words = letters.notice.len() as c_int;
        for peer in &mut self.peers {
            let notice = letters.notices[peer.rank].as_mut_ptr().cast();
            let ready = (&raw mut letters.readies[peer.rank]).cast();
            // SAFETY: words in the box and its lists, whose places do not change, and which are kept until
            // the requests are done, or for ever. They are looked at only when theirs is done.
            unsafe {
                peer.notice = Some(comm.receive(notice, words, Kind::word(), peer.rank, NOTICE)?);
                peer.ready = Some(comm.receive(ready, 1, Kind::word(), peer.rank, READY)?);
            }
        }
        for peer in &self.peers {
            let notice = letters.notice.as_ptr().cast();
            // SAFETY: as above; it is not written again.
            letters.sending.push(unsafe { comm.send(notice, words, Kind::word(), peer.rank, NOTICE)? });
        }
        Ok(())
    }

    /// Goes as far as it can without waiting.
    pub(super) fn pump(&mut self) {
        let pushed = match self.phase {
            Phase::Meeting => self.meet().and_then(|met| if met { self.begin_moving() } else { Ok(()) }),
            Phase::Moving => self.push_on(),
            Phase::Done | Phase::Failed(_) => Ok(()),
        };
        self.fail_on_error(pushed);
    }

    /// Compares the notices that have come. Whether all have.
    fn meet(&mut self) -> Result<bool, MpiError> {
        let mut all = true;
        for peer in &mut self.peers {
            if is_done(&mut peer.notice)? {
                self.here.compare(peer.rank, &self.letters.notices[peer.rank])?;
            }
            all &= peer.notice.is_none();
        }
        Ok(all)
    }

    /// Posts what is received, and only then says so.
    fn begin_moving(&mut self) -> Result<(), MpiError> {
        self.phase = Phase::Moving;
        self.post(|row| row.receive)?;
        for peer in &self.peers {
            let ready = (&raw const self.letters.ready).cast();
            // SAFETY: a word in the box, which is not written again.
            let request = unsafe { self.comm.send(ready, 1, Kind::word(), peer.rank, READY)? };
            self.letters.sending.push(request);
        }
        self.push_on()
    }

    /// Sends to those who have become ready; sees what is done.
    fn push_on(&mut self) -> Result<(), MpiError> {
        for n in 0..self.peers.len() {
            let rank = self.peers[n].rank;
            if is_done(&mut self.peers[n].ready)? {
                self.post(|row| !row.receive && row.peer == rank)?;
            }
        }
        drop_done(&mut self.moving, |(request, _)| request)?;
        drop_done(&mut self.letters.sending, |request| request)?;
        let ready = self.peers.iter().all(|peer| peer.ready.is_none());
        if ready && self.moving.is_empty() && self.letters.sending.is_empty() {
            self.phase = Phase::Done;
        }
        Ok(())
    }

    /// Posts some of the moves.
    fn post(&mut self, which: impl Fn(&Move) -> bool) -> Result<(), MpiError> {
        for row in self.moves.iter().filter(|row| which(row)) {
            // SAFETY: who made the exchange lent it this memory (`new`).
            let request = unsafe {
                match row.receive {
                    true => self.comm.receive(row.rows, row.count, row.kind, row.peer, ROWS)?,
                    false => self.comm.send(row.rows, row.count, row.kind, row.peer, ROWS)?,
                }
            };
            self.moving.push((request, row.receive));
        }
        Ok(())
    }

    fn fail_on_error(&mut self, result: Result<(), MpiError>) {
        if let Err(error) = result {
            self.phase = Phase::Failed(error);
        }
    }

    /// Whether the exchange is over, well or not.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed(_))
    }

    /// Ends an exchange that took too long.
    pub(super) fn time_out(&mut self, waited: Duration) {
        let occasion = self.here.occasion();
        let first = |late: fn(&Peer) -> bool| self.peers.iter().find(|peer| late(peer)).map(|peer| peer.rank);
        let error = match (first(|peer| peer.notice.is_some()), first(|peer| peer.ready.is_some())) {
            (Some(rank), _) => RanksError::Absent { rank, occasion, waited },
            // It came, and gave up before all had.
            (None, Some(rank)) => RanksError::Left { rank, occasion },
            (None, None) => RanksError::Stuck { occasion, waited },
        };
        self.phase = Phase::Failed(error.into());
    }

    /// What became of a settled exchange. Afterwards no transfer of rows is under way: where one can
    /// neither be ended nor withdrawn within `grace`, the process is ended.
    pub(super) fn outcome(mut self, grace: Duration) -> Result<(), MpiError> {
        match core::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Failed(error) => {
                self.withdraw_rows(&error, grace);
                self.withdraw_letters();
                Err(error)
            }
            Phase::Meeting | Phase::Moving | Phase::Done => Ok(()),
        }
    }

    fn withdraw_rows(&mut self, error: &MpiError, grace: Duration) {
        let receives = self.moving.iter_mut().filter(|(_, receive)| *receive);
        receives.for_each(|(request, _)| request.cancel());
        let begin = Instant::now();
        while !self.moving.is_empty() {
            // A request whose test fails is as unknown as one that is not done.
            let tested = drop_done(&mut self.moving, |(request, _)| request);
            if tested.is_err() || begin.elapsed() > grace {
                eprintln!(
                    "microseq: {error}; its transfers can neither be ended nor withdrawn, so this process ends"
                );
                self.comm.abort();
            }
            std::thread::yield_now();
        }
    }

    /// Letters are small, and ours: where one cannot be withdrawn at once, all are left to MPI for ever.
    fn withdraw_letters(self) {
        let Self { mut letters, peers, .. } = self;
        let mut awaited: Vec<Request> =
            peers.into_iter().flat_map(|peer| [peer.notice, peer.ready]).flatten().collect();
        awaited.iter_mut().for_each(Request::cancel);
        awaited.append(&mut letters.sending);
        let tested = drop_done(&mut awaited, |request| request);
        if tested.is_err() || !awaited.is_empty() {
            Box::leak(letters);
        }
    }
}

/// Whether a request was there and is done; it is taken away then.
fn is_done(place: &mut Option<Request>) -> Result<bool, MpiError> {
    let done = match place {
        Some(request) => request.is_done()?,
        None => false,
    };
    if done {
        *place = None;
    }
    Ok(done)
}

/// Forgets what is done.
fn drop_done<T>(requests: &mut Vec<T>, request: impl Fn(&mut T) -> &mut Request) -> Result<(), MpiError> {
    let mut result = Ok(());
    requests.retain_mut(|item| match request(item).is_done() {
        Ok(done) => !done,
        Err(error) => {
            result = Err(error);
            true
        }
    });
    result
}

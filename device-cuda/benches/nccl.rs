//! A pack of 65,536 tokens in 8 steps through a few layers, on 1 GPU and on as many as there are: how much
//! of the transfers the computation hides, beside bare calls of NCCL.
//!
//! Every rank is a thread with a GPU of its own. What stands in for the projection of queries, while which
//! the gathers run, is attention over documents of its own. Times are medians, from all ranks having begun
//! to all having finished, by the host's clock.

#[path = "nccl/bare.rs"]
mod bare;

use bare::Bare;
use microseq_core::{
    Agreement, Attention, Backward, DType, Device, Forward, KvMut, KvRef, Layout, Pass, Plan, Problem, Ranks,
    RowsMut, RowsRef, Scalar, Step, Varlen, bf16,
};
use microseq_cuda::nccl::{Nccl, NcclRanks, Streams, UniqueId};
use microseq_cuda::{Buffer, Cuda, DeviceMut, Prepared};
use std::ops::Range;
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

/// The documents of the workload `gpu_pack_2k`, twice.
const LENGTHS: [u32; 22] = [
    3671, 1971, 6848, 5521, 1428, 6757, 862, 1618, 1102, 819, 2171, 3671, 1971, 6848, 5521, 1428, 6757, 862,
    1618, 1102, 819, 2171,
];
const TOKENS: usize = 65_536;
const STEP: usize = 8192;
const LAYERS: usize = 2;
const ROUNDS: usize = 9;
/// Documents of the stand-in for each step and layer, and their rows. About half the products of the
/// projection from 4096 to 4096 that it stands for.
const STAND_INS: usize = 16;
const STAND_IN: usize = 1024;
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() {
    let gpus = (0..8).take_while(|&n| Cuda::new(n).is_ok()).count();
    let (cuda, nccl) = match (Cuda::new(0), Nccl::load()) {
        (Ok(cuda), Ok(nccl)) => (cuda, nccl),
        (Err(error), _) => return println!("NOT RUN: {error}"),
        (_, Err(error)) => return println!("NOT RUN: {error}"),
    };
    println!("{gpus} x {}, NCCL {}", cuda.name().unwrap_or_default(), nccl.version().unwrap_or_default());
    println!(
        "{TOKENS} tokens in steps of {STEP}, {LAYERS} layers, 32 heads over 8 of 128, bf16; milliseconds"
    );
    let single = bench(1, true, &nccl, &[Round::Overlapped])[0].whole;
    println!("1 GPU: {single:.2}");
    let mut ranks = 2;
    while ranks <= gpus {
        report(ranks, single, &nccl);
        ranks *= 2;
    }
}

fn report(ranks: usize, single: f64, nccl: &Nccl) {
    let plain = bench(ranks, false, nccl, &[Round::Overlapped])[0].whole;
    let medians = bench(ranks, true, nccl, &Round::ALL);
    let [overlapped, serial, computed, moved, bare] = medians[..] else { unreachable!() };
    println!(
        "{ranks} GPUs: {:.2} with overlap, {:.2} without; {plain:.2} with transfers on a stream like others",
        overlapped.whole, serial.whole
    );
    println!(
        "  computation alone {:.2}, transfers alone {:.2}, bare NCCL calls {:.2}",
        computed.whole, moved.whole, bare.whole
    );
    println!(
        "  efficiency {:.1}% ({:.1}% without transfers)",
        efficiency(single, overlapped.whole, ranks),
        efficiency(single, computed.whole, ranks)
    );
    println!("  transfers add {:.2}, of {:.2}", overlapped.whole - computed.whole, moved.whole);
    let [together, apart] = balance(ranks);
    println!(
        "  of all pairs, the rank with the most has {:.2} times its part; step by step {:.2} times",
        together, apart
    );
    let collectives = (2 * LAYERS * TOKENS / STEP) as f64;
    let each = |median: Median| median.given / collectives * 1e3;
    println!("  the host gives a collective in {:.0} us, a bare one in {:.0}", each(moved), each(bare));
}

/// How many more pairs of queries and keys the rank with the most has than it would if all had as many: of
/// the whole sequence, and where ranks wait for each other in every step.
fn balance(ranks: usize) -> [f64; 2] {
    let plan = Plan::padded(&LENGTHS, TOKENS, STEP).unwrap();
    let (mut together, mut apart) = (vec![0; ranks], 0);
    for step in plan.steps() {
        let pairs = |rank| step.share(rank, ranks).unwrap().pairs(attention().mask());
        together.iter_mut().enumerate().for_each(|(rank, sum)| *sum += pairs(rank));
        apart += (0..ranks).map(pairs).max().unwrap_or(0);
    }
    let part = together.iter().sum::<u64>() as f64 / ranks as f64;
    [*together.iter().max().expect("a rank") as f64 / part, apart as f64 / part]
}

fn efficiency(single: f64, time: f64, ranks: usize) -> f64 {
    100.0 * single / time / ranks as f64
}

/// What a round does.
#[derive(Clone, Copy, PartialEq)]
enum Round {
    Overlapped,
    Serial,
    Computing,
    Moving,
    Bare,
}

impl Round {
    const ALL: [Self; 5] = [Self::Overlapped, Self::Serial, Self::Computing, Self::Moving, Self::Bare];
}

/// Milliseconds of a round.
#[derive(Clone, Copy)]
struct Median {
    whole: f64,
    /// Until all was given to the GPU.
    given: f64,
}

/// Medians of some kinds of rounds, with transfers on an urgent stream or one like others.
fn bench(ranks: usize, urgent: bool, nccl: &Nccl, rounds: &[Round]) -> Vec<Median> {
    let (id, bare_id) = (UniqueId::new(nccl).unwrap(), UniqueId::new(nccl).unwrap());
    let (barrier, medians) = (Barrier::new(ranks), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for number in 0..ranks {
            let (barrier, medians) = (&barrier, &medians);
            scope.spawn(move || {
                let mut rank = Rank::new(nccl, (id, bare_id), number, ranks, urgent);
                for &round in rounds {
                    let median = rank.median(round, barrier);
                    if number == 0 {
                        medians.lock().unwrap().push(median);
                    }
                }
            });
        }
    });
    medians.into_inner().unwrap()
}

struct Turn {
    step: Step<'static>,
    window: Range<usize>,
    /// The rank's rows of the step, among all its rows.
    rows: Range<usize>,
    prepared: Prepared,
}

struct Layer {
    kv: Buffer<bf16>,
    gradients: Buffer<f32>,
    q: Buffer<bf16>,
    out: Buffer<bf16>,
    lse: Buffer<f32>,
    dout: Buffer<bf16>,
    dq: Buffer<bf16>,
}

struct Rank {
    cuda: Cuda,
    transfers: Cuda,
    /// Taken out while a collective of it goes on.
    group: Option<NcclRanks>,
    bare: Bare,
    turns: Vec<Turn>,
    layers: Vec<Layer>,
    own_rows: usize,
    scratch: Buffer<u8>,
    stand_in: Prepared,
    stand_in_rows: usize,
}

fn attention() -> Attention {
    Attention::new(32, 8, 128).expect("a legal operator")
}

impl Rank {
    fn new(
        nccl: &Nccl,
        (id, bare_id): (UniqueId, UniqueId),
        rank: usize,
        ranks: usize,
        urgent: bool,
    ) -> Self {
        let cuda = Cuda::new(rank).unwrap();
        let transfers = if urgent { cuda.with_new_urgent_stream() } else { cuda.with_new_stream() };
        let transfers = transfers.unwrap();
        let plan = Plan::padded(&LENGTHS, TOKENS, STEP).unwrap();
        let agreement = Agreement::new(&plan, &attention(), DType::Bf16, ranks);
        let streams = Streams { compute: &cuda, transfers: &transfers };
        let group = NcclRanks::new(nccl, id, rank, &agreement, streams, TIMEOUT).unwrap();
        let mut own_rows = 0;
        let turns: Vec<Turn> = plan
            .steps()
            .map(|step| {
                let share = step.share(rank, ranks).unwrap();
                let prepared = cuda.prepare(&Problem::of::<bf16>(attention(), share).unwrap()).unwrap();
                let rows = own_rows..own_rows + share.rows().len();
                own_rows = rows.end;
                Turn { step, window: share.window(), rows, prepared }
            })
            .collect();
        let scratch = turns.iter().map(|turn| cuda.scratch_bytes(&turn.prepared, Pass::Backward)).max();
        let sums: Vec<_> = (0..=STAND_INS / ranks).map(|n| (n * STAND_IN) as i32).collect();
        let stand_in_rows = STAND_INS / ranks * STAND_IN;
        let varlen = Varlen::new(&sums, &sums, stand_in_rows, stand_in_rows).unwrap();
        let stand_in = cuda.prepare(&Problem::of::<bf16>(attention(), varlen).unwrap()).unwrap();
        let stream = cuda.stream();
        let (q, kv) = (own_rows * 32 * 128, TOKENS * 16 * 128);
        let layer = |_| Layer {
            kv: noise(stream, kv),
            gradients: Buffer::zeros(stream, kv).unwrap(),
            q: noise(stream, q),
            out: Buffer::zeros(stream, q).unwrap(),
            lse: Buffer::zeros(stream, own_rows * 32).unwrap(),
            dout: noise(stream, q),
            dq: Buffer::zeros(stream, q).unwrap(),
        };
        let layers = (0..LAYERS).map(layer).collect();
        let scratch = Buffer::zeros(stream, scratch.unwrap_or(0)).unwrap();
        let bare = Bare::new(bare_id, rank, ranks);
        let group = Some(group);
        Self { cuda, transfers, group, bare, turns, layers, own_rows, scratch, stand_in, stand_in_rows }
    }

    fn median(&mut self, round: Round, barrier: &Barrier) -> Median {
        let (mut whole, mut given) = (Vec::new(), Vec::new());
        for n in 0..ROUNDS + 2 {
            self.cuda.stream().synchronise().unwrap();
            self.transfers.stream().synchronise().unwrap();
            barrier.wait();
            let begin = Instant::now();
            if round == Round::Bare {
                self.bare_round()
            } else {
                self.round(round)
            }
            let gave = begin.elapsed();
            self.group.as_mut().expect("put back").finish().unwrap();
            self.cuda.stream().synchronise().unwrap();
            self.transfers.stream().synchronise().unwrap();
            barrier.wait();
            let time = begin.elapsed();
            // The first two warm up.
            if n >= 2 {
                whole.push(time);
                given.push(gave);
            }
        }
        Median { whole: middle(whole), given: middle(given) }
    }

    fn round(&mut self, round: Round) {
        let (moves, computes) = (round != Round::Computing, round != Round::Moving);
        for turn in 0..self.turns.len() {
            for layer in 0..LAYERS {
                let project = |rank: &Self| {
                    if computes {
                        rank.project(layer)
                    }
                };
                let step = self.turns[turn].step;
                match round {
                    _ if !moves => project(self),
                    Round::Overlapped => self.gathering(layer, &step, project),
                    _ => {
                        self.gathering(layer, &step, |_| ());
                        project(self);
                    }
                }
                if computes {
                    self.forward(turn, layer);
                }
            }
        }
        // Backward in reverse; each step's rows of a layer travel while the next layer computes.
        let order: Vec<_> = (0..self.turns.len())
            .rev()
            .flat_map(|turn| (0..LAYERS).rev().map(move |layer| (turn, layer)))
            .collect();
        let backward = |rank: &Self, at: Option<&(usize, usize)>| {
            if let (Some(&(turn, layer)), true) = (at, computes) {
                rank.backward(turn, layer);
            }
        };
        backward(self, order.first());
        for (n, &(turn, layer)) in order.iter().enumerate() {
            let step = self.turns[turn].step;
            let next = order.get(n + 1);
            match round {
                _ if !moves => backward(self, next),
                Round::Overlapped => self.reducing(layer, &step, |rank| backward(rank, next)),
                _ => {
                    self.reducing(layer, &step, |_| ());
                    backward(self, next);
                }
            }
        }
    }

    fn gathering(&mut self, layer: usize, step: &Step<'_>, during: impl FnOnce(&Self)) {
        let mut group = self.group.take().expect("put back");
        // SAFETY: rows of a store that lives as long as the rank, which waits for its streams before it goes;
        // what runs meanwhile reads rows of steps before.
        let rows = unsafe { kv_rows(&self.layers[layer].kv, step.write()) };
        group.gather(layer as u32, step, rows, || during(self)).unwrap();
        self.group = Some(group);
    }

    fn reducing(&mut self, layer: usize, step: &Step<'_>, during: impl FnOnce(&Self)) {
        let mut group = self.group.take().expect("put back");
        // SAFETY: as above; what runs meanwhile adds to another layer's store, or to rows of steps before.
        let rows = unsafe { kv_rows(&self.layers[layer].gradients, step.write()) };
        group.reduce(layer as u32, step, rows, || during(self)).unwrap();
        self.group = Some(group);
    }

    /// Stands in for the projection of queries.
    fn project(&self, layer: usize) {
        let Layer { q, out, lse, .. } = &self.layers[layer];
        let (rows, layout) = (self.stand_in_rows, attention().q_layout(self.stand_in_rows));
        // SAFETY: buffers of this rank, used in the order of its stream; `out` and `lse` are written again by
        // the attention that follows.
        let (out, lse) = unsafe { (whole(out), whole(lse)) };
        let operands = Forward {
            q: RowsRef::new(q.view(), layout).unwrap(),
            // Not of the store, which is being written.
            kv: KvRef::packed(RowsRef::new(q.view(), attention().kv_layout(rows)).unwrap()).unwrap(),
            out: RowsMut::new(out, layout).unwrap(),
            lse: RowsMut::new(lse, attention().lse_layout(rows)).unwrap(),
        };
        // SAFETY: as above.
        self.cuda.forward(&self.stand_in, operands, unsafe { whole(&self.scratch) }).unwrap();
    }

    fn forward(&self, turn: usize, layer: usize) {
        let Turn { window, rows, prepared, .. } = &self.turns[turn];
        let Layer { kv, q, out, lse, .. } = &self.layers[layer];
        let (q_layout, lse_layout) =
            (attention().q_layout(self.own_rows), attention().lse_layout(self.own_rows));
        // SAFETY: buffers of this rank, used in the order of its stream.
        let (out, lse) = unsafe { (whole(out), whole(lse)) };
        let operands = Forward {
            q: RowsRef::new(q.view(), q_layout).unwrap().narrow(rows.clone()).unwrap(),
            kv: store(kv).narrow(window.clone()).unwrap(),
            out: RowsMut::new(out, q_layout).unwrap().narrow(rows.clone()).unwrap(),
            lse: RowsMut::new(lse, lse_layout).unwrap().narrow(rows.clone()).unwrap(),
        };
        // SAFETY: as above.
        self.cuda.forward(prepared, operands, unsafe { whole(&self.scratch) }).unwrap();
    }

    fn backward(&self, turn: usize, layer: usize) {
        let Turn { window, rows, prepared, .. } = &self.turns[turn];
        let Layer { kv, gradients, q, out, lse, dout, dq } = &self.layers[layer];
        let (q_layout, lse_layout) =
            (attention().q_layout(self.own_rows), attention().lse_layout(self.own_rows));
        let read = |memory| RowsRef::new(memory, q_layout).unwrap().narrow(rows.clone()).unwrap();
        // SAFETY: buffers of this rank, used in the order of its stream; rows of the store that travel are
        // those of steps behind this one.
        let (dq, dkv) = unsafe { (whole(dq), kv_rows(gradients, window.clone())) };
        let operands = Backward {
            q: read(q.view()),
            kv: store(kv).narrow(window.clone()).unwrap(),
            out: read(out.view()),
            lse: RowsRef::new(lse.view(), lse_layout).unwrap().narrow(rows.clone()).unwrap(),
            dout: read(dout.view()),
            dq: RowsMut::new(dq, q_layout).unwrap().narrow(rows.clone()).unwrap(),
            dkv,
        };
        // SAFETY: as above.
        self.cuda.backward(prepared, operands, unsafe { whole(&self.scratch) }).unwrap();
    }

    /// The collectives of a round as NCCL's own calls, nothing between.
    fn bare_round(&self) {
        let stream = self.transfers.stream().as_raw();
        for turn in &self.turns {
            for layer in &self.layers {
                self.bare.gather(layer.kv.view().address(), &turn.step, stream);
            }
        }
        for turn in self.turns.iter().rev() {
            for layer in &self.layers {
                self.bare.reduce(layer.gradients.view().address(), &turn.step, stream);
            }
        }
    }
}

/// Of several times, in milliseconds.
fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn store_layout() -> Layout {
    attention().kv_layout(TOKENS)
}

fn store(kv: &Buffer<bf16>) -> KvRef<'_, microseq_cuda::DeviceMemory, bf16> {
    KvRef::packed(RowsRef::new(kv.view(), store_layout()).unwrap()).unwrap()
}

/// A whole buffer to write.
///
/// # Safety
/// As [`DeviceMut::from_raw`].
unsafe fn whole<T: Scalar>(buffer: &Buffer<T>) -> DeviceMut<'_, T> {
    // SAFETY: the caller's promise.
    unsafe { DeviceMut::from_raw(buffer.view().address(), buffer.len()) }
}

/// Some rows of a store to write.
///
/// # Safety
/// As [`DeviceMut::from_raw`].
unsafe fn kv_rows<E: microseq_core::Element>(
    buffer: &Buffer<E>,
    rows: Range<usize>,
) -> KvMut<'_, microseq_cuda::DeviceMemory, E> {
    // SAFETY: the caller's promise.
    let memory = unsafe { DeviceMut::from_raw(buffer.view().address(), buffer.len()) };
    KvMut::packed(RowsMut::new(memory, store_layout()).unwrap()).unwrap().narrow(rows).unwrap()
}

/// Numbers of mean 0, cheaply: transfers and attention take as long with any, but not with zeros.
fn noise(stream: &microseq_cuda::Stream, elements: usize) -> Buffer<bf16> {
    let mut state = 1u32;
    let some: Vec<bf16> = (0..1 << 20)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect();
    let values: Vec<bf16> = some.iter().copied().cycle().take(elements).collect();
    Buffer::from_slice(stream, &values).unwrap()
}

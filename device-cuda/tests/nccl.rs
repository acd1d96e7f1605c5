//! Ranks on real GPUs: threads that share one, and NCCL between as many as there are.
//!
//! A test that needs more GPUs than there are, or NCCL where there is none, is ignored with the reason.

// Names the crate as the facade's tests do, which share the modules below.
extern crate microseq_core as microseq;

#[allow(dead_code)]
#[path = "../../tests/common/bits.rs"]
mod bits;
mod common;
#[allow(dead_code)]
#[path = "../../tests/common/golden.rs"]
mod golden;
#[path = "../../tests/common/ranked.rs"]
#[allow(dead_code)]
mod ranked;
#[allow(dead_code)]
#[path = "../../tests/common/safetensors.rs"]
mod safetensors;

use common::gpu_test;
use core::ffi::{c_int, c_void};
use libtest_mimic::Trial;
use microseq_core::dev::Harness;
use microseq_core::{
    Agreement, Attention, DType, Element, Field, KvMut, Occasion, Plan, Ranks, RanksError, RowsMut, Scalar,
    Step, bf16, f16,
};
use microseq_cuda::nccl::{Nccl, NcclError, NcclRanks, Streams, UniqueId};
use microseq_cuda::{Buffer, Cuda, CudaError, CudaHarness, DeviceMemory, DeviceMut, DeviceRef};
use microseq_ranks::{Depot, ThreadRanks, seats};
use ranked::{CUTS, Packed, sequences};
use safetensors::Numbers;
use std::sync::Barrier;
use std::time::Duration;

/// Nothing that should happen takes as long.
const LONG: Duration = Duration::from_secs(60);
/// Long beside a launch.
const SHORT: Duration = Duration::from_secs(3);

fn main() {
    let mut tests = vec![
        gpu_test("threads_share_a_gpu", threads_share_a_gpu),
        nccl_test(1, "one_rank_through_nccl", |_| every_case(1)),
        nccl_test(1, "a_runtimes_communicator", |_| a_runtimes_communicator()),
        nccl_test(1, "a_rank_that_does_not_come_to_the_making", |_| absent_from_the_making()),
    ];
    for gpus in 2..=4 {
        tests.push(nccl_test(gpus, &format!("every_case_on_{gpus}_gpus"), every_case));
        tests.push(nccl_test(gpus, &format!("disagreements_on_{gpus}_gpus"), disagreements));
        tests.push(nccl_test(gpus, &format!("other_collectives_on_{gpus}_gpus"), other_collectives));
        tests.push(nccl_test(gpus, &format!("absences_on_{gpus}_gpus"), absences));
    }
    common::run(tests);
}

/// A test of so many GPUs and NCCL.
fn nccl_test(gpus: usize, name: &str, test: fn(usize)) -> Trial {
    let missing = Cuda::new(gpus - 1).err().map(|error| error.to_string());
    let missing = missing.or_else(|| Nccl::load().err().map(|error| error.to_string()));
    let trial = Trial::test(name, move || {
        test(gpus);
        Ok(())
    });
    trial.with_ignored_flag(missing.is_some()).with_kind(missing.unwrap_or_default())
}

/// A GPU's memory, for ranks that are threads.
struct GpuDepot(Cuda);

impl Depot for GpuDepot {
    type Device = Cuda;
    type Buffer<T: Scalar> = Buffer<T>;

    fn device(&self) -> &Cuda {
        &self.0
    }

    fn allocate<T: Scalar>(&self, elements: usize) -> Result<Buffer<T>, CudaError> {
        Buffer::zeros(self.0.stream(), elements)
    }

    fn view<'a, T: Scalar>(&self, buffer: &'a Buffer<T>) -> DeviceRef<'a, T> {
        buffer.view()
    }

    fn view_mut<'a, T: Scalar>(&self, buffer: &'a mut Buffer<T>) -> DeviceMut<'a, T> {
        buffer.view_mut()
    }

    fn synchronise(&self) -> Result<(), CudaError> {
        self.0.stream().synchronise()
    }
}

/// Every golden case and every cut on 1 to 4 ranks, each a thread with a stream of its own.
fn threads_share_a_gpu(cuda: Cuda) {
    for ranks in 1..=4 {
        all(&cuda, ranks, &|packed: &dyn Case, micro| {
            each(seats(ranks).unwrap(), |seat| {
                let own = cuda.with_new_stream().unwrap();
                packed.on_threads(seat, own, micro, ranks);
            });
        });
    }
}

/// Every golden case and every cut, a GPU for each rank.
fn every_case(ranks: usize) {
    let cuda = Cuda::new(0).unwrap();
    all(&cuda, ranks, &|packed: &dyn Case, micro| {
        each_gpu(ranks, |gpu, id, rank| packed.on_nccl(&gpu, id, rank, micro, ranks));
    });
}

/// A packed sequence of any element type.
trait Case: Sync {
    fn on_threads(&self, seat: microseq_ranks::Seat, cuda: Cuda, micro: usize, ranks: usize);
    fn on_nccl(&self, gpu: &Gpu, id: UniqueId, rank: usize, micro: usize, ranks: usize);
}

/// A sequence and what its ranks are compared with.
struct Compared<E> {
    packed: Packed<E>,
    expected: ranked::Expected<E>,
}

impl<E: Element> Case for Compared<E> {
    fn on_threads(&self, seat: microseq_ranks::Seat, cuda: Cuda, micro: usize, ranks: usize) {
        let (Self { packed, expected }, rank) = (self, seat.rank());
        let mut group: ThreadRanks<_> =
            seat.join(GpuDepot(cuda.clone()), &packed.agreement(micro, ranks)).unwrap();
        let outcome = packed.ranked(&CudaHarness::new(cuda), &mut group, micro).unwrap();
        packed.check_rank((rank, ranks), micro, &outcome, expected, true);
    }

    fn on_nccl(&self, gpu: &Gpu, id: UniqueId, rank: usize, micro: usize, ranks: usize) {
        let Self { packed, expected } = self;
        let mut group = gpu.join(id, rank, &packed.agreement(micro, ranks), LONG).unwrap();
        if ranks == 1 {
            group = group.through_nccl();
        }
        let harness = CudaHarness::new(gpu.compute.clone());
        let outcome = packed.ranked(&harness, &mut group, micro).unwrap();
        // Of two numbers there is one sum; of more, NCCL chooses the order.
        packed.check_rank((rank, ranks), micro, &outcome, expected, ranks <= 2);
    }
}

fn all(cuda: &Cuda, ranks: usize, run: &dyn Fn(&dyn Case, usize)) {
    let harness = CudaHarness::new(cuda.clone());
    for (name, dtype) in sequences() {
        match dtype {
            DType::F32 => golden_case::<f32>(&harness, &name, ranks, run),
            DType::F16 => golden_case::<f16>(&harness, &name, ranks, run),
            DType::Bf16 => golden_case::<bf16>(&harness, &name, ranks, run),
        }
    }
    let attention = Attention::new(4, 2, 64).unwrap();
    for (seed, (name, lengths, tokens, micro)) in CUTS.into_iter().enumerate() {
        let packed = Packed::<bf16>::random(name, attention, lengths, tokens, seed as u64);
        compared(&harness, packed, micro, ranks, run);
    }
}

fn golden_case<E: Numbers>(harness: &CudaHarness, name: &str, ranks: usize, run: &dyn Fn(&dyn Case, usize)) {
    let micros = {
        let packed = Packed::<E>::golden(name);
        // Non-causal documents are not shared out.
        if ranks > 1 && !packed.attention.mask().causal {
            return;
        }
        golden::micro_sequence_lengths(packed.tokens, &packed.attention)
    };
    for micro in micros {
        compared(harness, Packed::<E>::golden(name), micro, ranks, run);
    }
}

fn compared<E: Element>(
    harness: &CudaHarness,
    packed: Packed<E>,
    micro: usize,
    ranks: usize,
    run: &dyn Fn(&dyn Case, usize),
) {
    let expected = packed.expected(harness, micro, ranks);
    harness.synchronise();
    run(&Compared { packed, expected }, micro);
}

/// A GPU and its two streams.
struct Gpu {
    compute: Cuda,
    transfers: Cuda,
}

impl Gpu {
    fn join(
        &self,
        id: UniqueId,
        rank: usize,
        agreement: &Agreement,
        timeout: Duration,
    ) -> Result<NcclRanks, NcclError> {
        let streams = Streams { compute: &self.compute, transfers: &self.transfers };
        NcclRanks::new(&Nccl::load().unwrap(), id, rank, agreement, streams, timeout)
    }
}

/// Runs work as threads; what it returns, in order.
fn each<S: Send, T: Send>(seats: Vec<S>, work: impl Fn(S) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = seats.into_iter().map(|seat| scope.spawn(move || work(seat))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank does not panic")).collect()
    })
}

/// Runs ranks as threads, each with a GPU of its own.
fn each_gpu<T: Send>(ranks: usize, work: impl Fn(Gpu, UniqueId, usize) -> T + Sync) -> Vec<T> {
    let id = UniqueId::new(&Nccl::load().unwrap()).unwrap();
    each((0..ranks).collect(), |rank| {
        let compute = Cuda::new(rank).unwrap();
        let transfers = compute.with_new_stream().unwrap();
        work(Gpu { compute, transfers }, id, rank)
    })
}

const LENGTHS: [u32; 3] = [40, 10, 100];

fn plan() -> Plan<'static> {
    Plan::new(&LENGTHS, 60).unwrap()
}

/// Steps 0 and 1 have 60 rows, step 2 has 30.
fn step(n: usize) -> Step<'static> {
    plan().steps().nth(n).unwrap()
}

fn attention() -> Attention {
    Attention::new(4, 2, 64).unwrap()
}

fn agreement(ranks: usize) -> Agreement {
    Agreement::new(&plan(), &attention(), DType::F32, ranks)
}

fn packed<E: Element>(memory: &mut Buffer<E>, rows: usize) -> KvMut<'_, DeviceMemory, E> {
    KvMut::packed(RowsMut::new(memory.view_mut(), attention().kv_layout(rows)).unwrap()).unwrap()
}

fn gather(gpu: &Gpu, group: &mut NcclRanks, step: &Step<'_>) -> Result<(), NcclError> {
    let rows = step.write().len();
    let elements = rows * attention().kv_layout(rows).row_stride();
    let mut memory = Buffer::<f32>::zeros(gpu.compute.stream(), elements).unwrap();
    group.gather(0, step, packed(&mut memory, rows), || ())
}

/// Rank 1 was given something else.
fn disagreements(ranks: usize) {
    let errors = each_gpu(ranks, |gpu, id, rank| {
        let other = Agreement::new(&Plan::new(&[10, 40, 100], 60).unwrap(), &attention(), DType::F32, ranks);
        let agreed = if rank == 1 { other } else { agreement(ranks) };
        gpu.join(id, rank, &agreed, LONG).err()
    });
    for (rank, error) in errors.into_iter().enumerate() {
        let Some(NcclError::Ranks(RanksError::Differs { rank: named, field: Field::Lengths, .. })) = error
        else {
            panic!("rank {rank}: {error:?}")
        };
        assert_eq!(named == 1, rank != 1);
    }
}

/// Rank 1 is at another step: of as many rows, and of others.
fn other_collectives(ranks: usize) {
    for other in [1, 2] {
        each_gpu(ranks, |gpu, id, rank| {
            let mut group = gpu.join(id, rank, &agreement(ranks), LONG).unwrap();
            let own = if rank == 1 { other } else { 0 };
            let error = gather(&gpu, &mut group, &step(own)).and_then(|()| group.finish()).unwrap_err();
            let NcclError::Ranks(RanksError::OtherCall { rank: named, there, here }) = error else {
                panic!("rank {rank}: {error}")
            };
            assert_eq!((named == 1, here.step), (rank != 1, own as u32));
            assert_ne!(here.step, there.step);
            // The GPU goes on.
            gpu.compute.stream().synchronise().unwrap();
            gpu.transfers.stream().synchronise().unwrap();
        });
    }
}

/// Rank 1 does not come; then it leaves, while another waits for its stream alone.
fn absences(ranks: usize) {
    for leaves in [false, true] {
        let barrier = Barrier::new(ranks);
        each_gpu(ranks, |gpu, id, rank| {
            let mut group = gpu.join(id, rank, &agreement(ranks), LONG).unwrap();
            gather(&gpu, &mut group, &step(0)).unwrap();
            group.finish().unwrap();
            group.set_timeout(SHORT);
            if rank == 1 {
                if leaves {
                    drop(group);
                    barrier.wait();
                } else {
                    barrier.wait();
                }
                return;
            }
            let started = gather(&gpu, &mut group, &step(1));
            if leaves {
                gpu.compute.stream().synchronise().unwrap();
            }
            let error = started.and_then(|()| group.finish()).unwrap_err();
            match error {
                NcclError::Ranks(RanksError::Stuck { occasion: Occasion::Call(call), .. }) => {
                    assert_eq!(call.step, 1);
                }
                // NCCL may see the other end close.
                NcclError::Nccl { .. } => {}
                error => panic!("rank {rank}: {error}"),
            }
            gpu.compute.stream().synchronise().unwrap();
            barrier.wait();
        });
    }
}

fn absent_from_the_making() {
    let compute = Cuda::new(0).unwrap();
    let gpu = Gpu { transfers: compute.with_new_stream().unwrap(), compute };
    let id = UniqueId::new(&Nccl::load().unwrap()).unwrap();
    let error = gpu.join(id, 0, &agreement(2), SHORT).err();
    assert_eq!(error, Some(RanksError::Stuck { occasion: Occasion::Making, waited: SHORT }.into()));
    // The GPU still works.
    assert_eq!(Buffer::from_slice(gpu.compute.stream(), &[1.5f32]).unwrap().download().unwrap(), [1.5]);
}

/// `ncclUniqueId`, passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawId([u8; 128]);

fn a_runtimes_communicator() {
    let nccl = Nccl::load().unwrap();
    let compute = Cuda::new(0).unwrap();
    let gpu = Gpu { transfers: compute.with_new_stream().unwrap(), compute };
    // SAFETY: loaded already, as NCCL.
    let library = unsafe { libloading::Library::new("libnccl.so.2") }.unwrap();
    // SAFETY: nccl.h declares them so.
    let (init, destroy) = unsafe {
        (
            library
                .get::<unsafe extern "C" fn(*mut *mut c_void, c_int, RawId, c_int) -> c_int>(
                    b"ncclCommInitRank",
                )
                .unwrap(),
            library.get::<unsafe extern "C" fn(*mut c_void) -> c_int>(b"ncclCommDestroy").unwrap(),
        )
    };
    let id = UniqueId::new(&nccl).unwrap();
    let mut raw = core::ptr::null_mut();
    // SAFETY: one handle is written; without a current context NCCL takes device 0.
    assert_eq!(unsafe { init(&mut raw, 1, RawId(*id.as_bytes()), 0) }, 0);
    let streams = Streams { compute: &gpu.compute, transfers: &gpu.transfers };
    // SAFETY: made above, used by nothing else, destroyed below.
    let group = unsafe { NcclRanks::from_raw(&nccl, raw, &agreement(1), streams, LONG) };
    let mut group = group.unwrap().through_nccl();
    gather(&gpu, &mut group, &step(2)).unwrap();
    group.finish().unwrap();
    drop(group);
    // SAFETY: the group is gone.
    assert_eq!(unsafe { destroy(raw) }, 0);
}

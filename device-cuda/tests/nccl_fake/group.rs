//! Groups of pretended GPUs, a thread each.

pub(crate) use crate::pretended::pretend;
use core::ffi::{c_int, c_void};
use microseq_core::{Agreement, Attention, DType, Element, KvMut, Layout, Plan, Ranks, RowsMut, Step};
use microseq_cuda::nccl::{Nccl, NcclError, NcclRanks, Streams, UniqueId};
use microseq_cuda::{Buffer, Cuda, DeviceMemory};
use std::sync::OnceLock;
use std::time::Duration;

/// So long that nothing which should happen takes as long.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// So short that what should not happen is not waited for.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

pub(crate) const LENGTHS: [u32; 3] = [4, 1, 10];

pub(crate) fn plan() -> Plan<'static> {
    Plan::new(&LENGTHS, 6).unwrap()
}

/// Steps 0 and 1 have 6 rows, step 2 has 3.
pub(crate) fn step(n: usize) -> Step<'static> {
    plan().steps().nth(n).unwrap()
}

pub(crate) fn attention() -> Attention {
    Attention::new(2, 1, 4).unwrap()
}

pub(crate) fn agreement(ranks: usize) -> Agreement {
    Agreement::new(&plan(), &attention(), DType::F32, ranks)
}

pub(crate) fn nccl() -> &'static Nccl {
    static NCCL: OnceLock<Nccl> = OnceLock::new();
    NCCL.get_or_init(|| Nccl::load().expect("the pretended one"))
}

pub(crate) type SetVersion = unsafe extern "C" fn(c_int);
pub(crate) type SetError = unsafe extern "C" fn(*mut c_void, c_int);
pub(crate) type LeftOpen = unsafe extern "C" fn() -> c_int;

/// A pretended GPU and its two streams.
pub(crate) struct Gpu {
    pub(crate) compute: Cuda,
    pub(crate) transfers: Cuda,
}

impl Gpu {
    pub(crate) fn new(ordinal: usize) -> Self {
        let compute = Cuda::new(ordinal).expect("the pretended driver");
        let transfers = compute.with_new_stream().expect("the pretended driver");
        Self { compute, transfers }
    }

    pub(crate) fn streams(&self) -> Streams<'_> {
        Streams { compute: &self.compute, transfers: &self.transfers }
    }

    /// A rank of a group.
    pub(crate) fn join(
        &self,
        id: UniqueId,
        rank: usize,
        agreement: &Agreement,
    ) -> Result<NcclRanks, NcclError> {
        NcclRanks::new(nccl(), id, rank, agreement, self.streams(), LONG)
    }

    /// A gather of a step's rows of ones.
    pub(crate) fn gather(&self, ranks: &mut NcclRanks, step: &Step<'_>, layer: u32) -> Result<(), NcclError> {
        let layout = attention().kv_layout(step.write().len());
        let mut memory = self.filled(layout, |_| 1.0);
        let gathered = ranks.gather(layer, step, packed(&mut memory, layout), || ());
        drop(memory);
        gathered
    }

    /// Memory for a layout, an element at a time.
    pub(crate) fn filled(&self, layout: Layout, value: impl Fn(usize) -> f32) -> Buffer<f32> {
        let elements: Vec<f32> = (0..layout.rows() * layout.row_stride()).map(value).collect();
        Buffer::from_slice(self.compute.stream(), &elements).unwrap()
    }
}

pub(crate) fn packed<E: Element>(memory: &mut Buffer<E>, layout: Layout) -> KvMut<'_, DeviceMemory, E> {
    KvMut::packed(RowsMut::new(memory.view_mut(), layout).unwrap()).unwrap()
}

/// Runs ranks as threads, each with a GPU of its own; what they return, in rank order.
pub(crate) fn each_rank<T: Send>(ranks: usize, work: impl Fn(Gpu, UniqueId, usize) -> T + Sync) -> Vec<T> {
    let id = UniqueId::new(nccl()).unwrap();
    // As it would come from another process.
    let id = UniqueId::from_bytes(*id.as_bytes());
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            (0..ranks).map(|rank| scope.spawn(move || work(Gpu::new(rank), id, rank))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank does not panic")).collect()
    })
}

/// As [`each_rank`], each with a place in a group.
pub(crate) fn each_member<T: Send>(ranks: usize, work: impl Fn(&Gpu, NcclRanks) -> T + Sync) -> Vec<T> {
    each_rank(ranks, |gpu, id, rank| {
        let group = gpu.join(id, rank, &agreement(ranks)).unwrap();
        work(&gpu, group)
    })
}

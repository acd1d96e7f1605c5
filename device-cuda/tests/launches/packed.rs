//! A call on a pretended GPU, and what it launched.

use crate::pretended::pretend;
use core::ffi::{c_int, c_uint};
use microseq_core::{
    Attention, Backward, Device, Element, Forward, KvMut, KvRef, Layout, Pass, Plan, Problem, RowsMut,
    RowsRef, Scalar, bf16,
};
use microseq_cuda::{Buffer, Cuda, CudaError, DeviceMemory, Prepared};

/// Pretended GPUs: gpu.c numbers them so.
pub(crate) const AMPERE: usize = 0;
pub(crate) const HOPPER: usize = 4;
pub(crate) const OLD: usize = 5;
pub(crate) const ADA: usize = 6;

/// Of the walks of 8 heads on one K/V head: 19 of the first key tile's, of 128 tokens up to 768 and of 256 behind, and
/// of each of the 32 key tiles those that begin with it or later.
pub(crate) fn parts_of_4000_tokens() -> i32 {
    let parts_of = |key_tile| if key_tile < 6 { 19 - key_tile } else { 16 - key_tile / 2 };
    (0..32).map(parts_of).sum()
}

/// A launch, as gpu.c writes it down.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Launch {
    name: [u8; 32],
    target: [u8; 16],
    pub(crate) blocks: c_uint,
    pub(crate) threads: c_uint,
    pub(crate) shared: c_uint,
    begins_early: c_uint,
    parameter: c_int,
    bytes: [u8; 2048],
}

impl Launch {
    pub(crate) fn kernel(&self) -> (&str, &str) {
        (text(&self.name), text(&self.target))
    }

    /// Whether it may begin before the kernel before it is through.
    pub(crate) fn begins_early(&self) -> bool {
        self.begins_early == 1
    }

    /// The argument block.
    pub(crate) fn block(&self) -> &[u8] {
        &self.bytes[..self.parameter as usize]
    }

    /// A number of the argument block.
    pub(crate) fn word(&self, at: usize) -> i32 {
        i32::from_ne_bytes(self.block()[at..at + 4].try_into().expect("four bytes"))
    }

    /// An address or a size.
    pub(crate) fn long(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.block()[at..at + 8].try_into().expect("eight bytes"))
    }
}

fn text(name: &[u8]) -> &str {
    let end = name.iter().position(|c| *c == 0).expect("gpu.c ends it");
    core::str::from_utf8(&name[..end]).expect("letters")
}

/// What this thread launched since it last asked.
fn launches() -> Vec<Launch> {
    let take: unsafe extern "C" fn(*mut Launch) -> c_int = pretend("pretend_launches");
    let none = Launch {
        name: [0; 32],
        target: [0; 16],
        blocks: 0,
        threads: 0,
        shared: 0,
        begins_early: 0,
        parameter: 0,
        bytes: [0; 2048],
    };
    let mut launches = vec![none; 16];
    // SAFETY: gpu.c's; it writes sixteen launches at most, of the same layout.
    let count = unsafe { take(launches.as_mut_ptr()) };
    launches.truncate(count as usize);
    launches
}

fn rows_of<T: Scalar>(buffer: &Buffer<T>, layout: Layout) -> RowsRef<'_, DeviceMemory, T> {
    RowsRef::new(buffer.view(), layout).expect("fits")
}

/// A step of packed documents, in bf16 where nothing else is said.
pub(crate) struct Packed {
    pub(crate) device: Cuda,
    pub(crate) attention: Attention,
    pub(crate) lengths: Vec<u32>,
    /// Elements that a row has besides those of its heads.
    pub(crate) padding: usize,
}

impl Packed {
    /// Dense rows, on a pretended GPU.
    pub(crate) fn new(ordinal: usize, attention: Attention, lengths: &[u32]) -> Self {
        let device = Cuda::new(ordinal).expect("pretended");
        Self { device, attention, lengths: lengths.to_vec(), padding: 0 }
    }

    pub(crate) fn rows(&self) -> usize {
        self.lengths.iter().sum::<u32>() as usize
    }

    fn layout(&self, heads: usize) -> Layout {
        let dense = Layout::dense(self.rows(), heads, self.attention.head_dim());
        dense.with_row_stride(dense.row_stride() + self.padding)
    }

    pub(crate) fn scratch_bytes(&self) -> usize {
        self.device.scratch_bytes(&self.prepared::<bf16>().expect("nothing fails"), Pass::Backward)
    }

    fn prepared<E: Element>(&self) -> Result<Prepared, CudaError> {
        let plan = Plan::new(&self.lengths, self.rows()).expect("plan");
        let step = plan.steps().next().expect("one step");
        let problem = Problem::of::<E>(self.attention, step).expect("problem");
        self.device.prepare(&problem)
    }

    /// What [`run`](Self::run) launches.
    pub(crate) fn launches(&self) -> Vec<Launch> {
        self.launches_of::<bf16>()
    }

    /// The same for elements of another type.
    pub(crate) fn launches_of<E: Element>(&self) -> Vec<Launch> {
        launches();
        self.run_in::<E>().expect("nothing fails");
        launches()
    }

    /// One forward pass and one backward pass over all rows.
    pub(crate) fn run(&self) -> Result<(), CudaError> {
        self.run_in::<bf16>()
    }

    fn run_in<E: Element>(&self) -> Result<(), CudaError> {
        let rows = self.rows();
        let prepared = self.prepared::<E>()?;
        let stream = self.device.stream();
        let (q, kv) = (self.layout(self.attention.heads()), self.layout(2 * self.attention.kv_heads()));
        let lse = Layout::lse(self.attention.heads(), rows);
        let zeros = |layout: Layout| Buffer::<E>::zeros(stream, layout.rows() * layout.row_stride());
        let (queries, keys, mut out, mut dq) = (zeros(q)?, zeros(kv)?, zeros(q)?, zeros(q)?);
        let mut sums = Buffer::<f32>::zeros(stream, lse.heads() * lse.rows())?;
        let mut store = Buffer::<f32>::zeros(stream, kv.rows() * kv.row_stride())?;
        let mut scratch = Buffer::<u8>::zeros(stream, self.device.scratch_bytes(&prepared, Pass::Backward))?;
        let forward = Forward {
            q: rows_of(&queries, q),
            kv: KvRef::packed(rows_of(&keys, kv)).expect("even"),
            out: RowsMut::new(out.view_mut(), q).expect("fits"),
            lse: RowsMut::new(sums.view_mut(), lse).expect("fits"),
        };
        self.device.forward(&prepared, forward, scratch.view_mut())?;
        let backward = Backward {
            q: rows_of(&queries, q),
            kv: KvRef::packed(rows_of(&keys, kv)).expect("even"),
            out: rows_of(&out, q),
            lse: rows_of(&sums, lse),
            dout: rows_of(&queries, q),
            dq: RowsMut::new(dq.view_mut(), q).expect("fits"),
            dkv: KvMut::packed(RowsMut::new(store.view_mut(), kv).expect("fits")).expect("even"),
        };
        self.device.backward(&prepared, backward, scratch.view_mut())
    }
}

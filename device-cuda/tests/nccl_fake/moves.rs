//! What arrives where.

use crate::Test;
use crate::group::{
    Gpu, LONG, LeftOpen, agreement, attention, each_member, each_rank, nccl, packed, plan, pretend, step,
};
use core::ffi::c_void;
use microseq_core::{KvMut, Layout, Ranks, RowsMut, Step, bf16};
use microseq_cuda::Buffer;
use microseq_cuda::nccl::{NcclRanks, UniqueId};
use std::collections::BTreeSet;

pub(crate) const TESTS: &[Test] = &[
    ("rows_and_sums_arrive", rows_and_sums_arrive),
    ("separate_keys_and_values_arrive", separate_keys_and_values_arrive),
    ("rows_of_16_bits_arrive", rows_of_16_bits_arrive),
    ("many_collectives_may_be_under_way", many_collectives_may_be_under_way),
    ("rows_travel_meanwhile", rows_travel_meanwhile),
    ("one_rank_moves_nothing", one_rank_moves_nothing),
    ("one_rank_can_be_made_to_call", one_rank_can_be_made_to_call),
    ("one_stream_will_do", one_stream_will_do),
    ("a_runtimes_communicator_will_do", a_runtimes_communicator_will_do),
    ("communicators_are_given_back", communicators_are_given_back),
];

fn value(n: usize) -> f32 {
    n as f32 + 0.25
}

/// A step's rows: this rank's own, and nothing where the others' will be.
fn own_rows(gpu: &Gpu, group: &NcclRanks, step: &Step<'_>, layout: Layout) -> Buffer<f32> {
    let begin = step.write().start;
    let own = step.write_share(group.rank(), group.size()).unwrap();
    let row = layout.row_stride();
    let own = (own.start - begin) * row..(own.end - begin) * row;
    gpu.filled(layout, |n| if own.contains(&n) { value(n) } else { f32::NAN })
}

/// A gather, then a reduce of what was gathered: each checked.
fn check(gpu: &Gpu, group: &mut NcclRanks, step: &Step<'_>, layer: u32) {
    let layout = attention().kv_layout(step.write().len());
    let mut memory = own_rows(gpu, group, step, layout);
    group.gather(layer, step, packed(&mut memory, layout), || ()).unwrap();
    let gathered = memory.download().unwrap();
    assert!(gathered.iter().enumerate().all(|(n, &x)| x == value(n)), "{gathered:?}");

    group.reduce(layer, step, packed(&mut memory, layout), || ()).unwrap();
    group.finish().unwrap();
    let sums = memory.download().unwrap();
    let begin = step.write().start;
    for row in step.write_share(group.rank(), group.size()).unwrap() {
        let row = row - begin;
        let elements = row * layout.row_stride()..(row + 1) * layout.row_stride();
        for (n, &sum) in elements.clone().zip(&sums[elements]) {
            assert_eq!(sum, group.size() as f32 * value(n), "element {n}");
        }
    }
}

/// Steps of 6 and of 3 rows: equal shares and unequal ones.
fn rows_and_sums_arrive() {
    let mut equal = BTreeSet::new();
    for ranks in 1..=4 {
        equal.extend(plan().steps().map(|step| step.write().len() % ranks == 0));
        each_member(ranks, |gpu, mut group| {
            plan().steps().for_each(|step| check(gpu, &mut group, &step, 0));
        });
    }
    assert_eq!(equal.len(), 2, "both kinds of shares");
}

fn separate_keys_and_values_arrive() {
    each_member(3, |gpu, mut group| {
        for step in plan().steps() {
            let layout = Layout::dense(step.write().len(), 1, 4);
            let mut k = own_rows(gpu, &group, &step, layout);
            // Values behind a gap.
            let mut v = own_rows(gpu, &group, &step, layout);
            let rows = |memory| RowsMut::new(memory, layout).unwrap();
            let kv = KvMut::separate(rows(k.view_mut()), rows(v.view_mut())).unwrap();
            group.gather(0, &step, kv, || ()).unwrap();
            group.finish().unwrap();
            for gathered in [k.download().unwrap(), v.download().unwrap()] {
                assert!(gathered.iter().enumerate().all(|(n, &x)| x == value(n)), "{gathered:?}");
            }
        }
    });
}

fn rows_of_16_bits_arrive() {
    each_member(4, |gpu, mut group| {
        let step = step(0);
        let layout = attention().kv_layout(6);
        let own = step.write_share(group.rank(), 4).unwrap();
        let own = own.start * layout.row_stride()..own.end * layout.row_stride();
        let elements: Vec<bf16> =
            (0..48).map(|n| bf16::from_f32(if own.contains(&n) { n as f32 } else { f32::NAN })).collect();
        let mut memory = Buffer::from_slice(gpu.compute.stream(), &elements).unwrap();
        group.gather(0, &step, packed(&mut memory, layout), || ()).unwrap();
        group.finish().unwrap();
        assert!(memory.download().unwrap().iter().enumerate().all(|(n, x)| x.to_f32() == n as f32));
    });
}

/// More than there are slots for notices, none waited for.
fn many_collectives_may_be_under_way() {
    each_member(2, |gpu, mut group| {
        let layout = attention().kv_layout(6);
        let mut memories: Vec<_> = (0..200).map(|_| own_rows(gpu, &group, &step(1), layout)).collect();
        for (layer, memory) in memories.iter_mut().enumerate() {
            group.gather(layer as u32, &step(1), packed(memory, layout), || ()).unwrap();
        }
        group.finish().unwrap();
        for memory in memories {
            assert!(memory.download().unwrap().iter().enumerate().all(|(n, &x)| x == value(n)));
        }
    });
}

/// Rank 1's gather is over while rank 0 still does something else.
fn rows_travel_meanwhile() {
    let (over, heard) = std::sync::mpsc::channel();
    let heard = std::sync::Mutex::new(heard);
    each_member(2, |gpu, mut group| {
        let layout = attention().kv_layout(6);
        let mut memory = own_rows(gpu, &group, &step(0), layout);
        let first = group.rank() == 0;
        let other_work = || {
            if first {
                heard.lock().unwrap().recv().unwrap()
            }
        };
        group.gather(0, &step(0), packed(&mut memory, layout), other_work).unwrap();
        group.finish().unwrap();
        if !first {
            over.send(()).unwrap();
        }
    });
}

fn one_rank_moves_nothing() {
    each_member(1, |gpu, mut group| {
        let layout = attention().kv_layout(6);
        let mut memory = gpu.filled(layout, value);
        assert_eq!(group.gather(0, &step(0), packed(&mut memory, layout), || 5).unwrap(), 5);
        assert_eq!(group.reduce(0, &step(0), packed(&mut memory, layout), || 6).unwrap(), 6);
        group.finish().unwrap();
        assert!(memory.download().unwrap().iter().enumerate().all(|(n, &x)| x == value(n)));
    });
}

fn one_rank_can_be_made_to_call() {
    each_member(1, |gpu, group| check(gpu, &mut group.through_nccl(), &step(0), 0));
}

fn one_stream_will_do() {
    each_rank(2, |gpu, id, rank| {
        let streams = microseq_cuda::nccl::Streams { compute: &gpu.compute, transfers: &gpu.compute };
        let mut group = NcclRanks::new(nccl(), id, rank, &agreement(2), streams, LONG).unwrap();
        check(&gpu, &mut group, &step(2), 0);
    });
}

/// `ncclUniqueId` and a configuration that blocks, as a runtime would give them.
type Init = unsafe extern "C" fn(*mut *mut c_void, i32, [u64; 16], i32, *const [u32; 6]) -> i32;

fn a_runtimes_communicator_will_do() {
    each_rank(3, |gpu, id, rank| {
        let init: Init = pretend("ncclCommInitRankConfig");
        let mut words = [0; 16];
        words
            .iter_mut()
            .zip(id.as_bytes().as_chunks::<8>().0)
            .for_each(|(to, bytes)| *to = u64::from_ne_bytes(*bytes));
        // The pretended GPU takes the number of a communicator's device from the current context, so one
        // call of ours comes first to make it current; on this thread there is none.
        let context = CurrentContext::of(rank);
        let mut raw = core::ptr::null_mut();
        // SAFETY: gpu.c's; it reads 24 bytes of configuration and writes one handle.
        assert_eq!(unsafe { init(&mut raw, 3, words, rank as i32, &[24, 0, 0xcafe_beef, 21_400, 1, 0]) }, 0);
        drop(context);
        // SAFETY: made above, and used by nothing else.
        let group = unsafe { NcclRanks::from_raw(nccl(), raw, &agreement(3), gpu.streams(), LONG) };
        let mut group = group.unwrap();
        assert_eq!((group.rank(), group.size()), (rank, 3));
        check(&gpu, &mut group, &step(0), 0);
        drop(group);
        // SAFETY: as above.
        let again = unsafe { NcclRanks::from_raw(nccl(), raw, &agreement(3), gpu.streams(), LONG) };
        check(&gpu, &mut again.unwrap(), &step(2), 0);
    });
}

/// A context that is the thread's current one for a while.
struct CurrentContext;

impl CurrentContext {
    fn of(ordinal: usize) -> Self {
        let push: unsafe extern "C" fn(*mut c_void) -> i32 = pretend("cuCtxPushCurrent_v2");
        // SAFETY: gpu.c's contexts are the numbers of their devices, and one.
        unsafe { push(core::ptr::without_provenance_mut(ordinal + 1)) };
        Self
    }
}

impl Drop for CurrentContext {
    fn drop(&mut self) {
        let pop: unsafe extern "C" fn(*mut *mut c_void) -> i32 = pretend("cuCtxPopCurrent_v2");
        let mut context = core::ptr::null_mut();
        // SAFETY: pushed on this thread; one handle is written.
        unsafe { pop(&mut context) };
    }
}

fn communicators_are_given_back() {
    let open: LeftOpen = pretend("pretend_left_open");
    // SAFETY: gpu.c's, and takes nothing. Other tests may be at work, so only a growth counts.
    let count = || unsafe { open() };
    let before = count();
    for _ in 0..20 {
        let id = UniqueId::new(nccl()).unwrap();
        let gpu = Gpu::new(0);
        let mut group = gpu.join(id, 0, &agreement(1)).unwrap();
        gpu.gather(&mut group, &step(0), 0).unwrap();
    }
    assert!(count() < before + 20, "{before} before, {} after", count());
}

//! Ranks that disagree, fail, or do not come; libraries and streams that will not do.

use crate::Test;
use crate::group::{
    Gpu, LENGTHS, LONG, SHORT, SetError, SetVersion, agreement, attention, each_member, each_rank, nccl,
    packed, plan, pretend, step,
};
use core::ffi::c_void;
use microseq_core::{
    Agreement, Call, Collective, DType, Field, Occasion, Plan, Ranks, RanksError, ShapeError, StepError,
};
use microseq_cuda::nccl::{Nccl, NcclError, NcclRanks, Streams, UniqueId};

pub(crate) const TESTS: &[Test] = &[
    ("what_is_no_nccl_is_said_so", what_is_no_nccl_is_said_so),
    ("an_old_nccl_is_said_so", an_old_nccl_is_said_so),
    ("streams_of_two_gpus_are_refused", streams_of_two_gpus_are_refused),
    ("ranks_outside_the_group_are_refused", ranks_outside_the_group_are_refused),
    ("ranks_that_were_given_something_else_are_named", ranks_that_were_given_something_else_are_named),
    (
        "a_rank_that_does_not_come_to_the_making_is_an_error",
        a_rank_that_does_not_come_to_the_making_is_an_error,
    ),
    ("a_rank_that_does_not_come_is_an_error", a_rank_that_does_not_come_is_an_error),
    ("a_rank_that_leaves_in_mid_step_is_an_error", a_rank_that_leaves_in_mid_step_is_an_error),
    ("a_rank_at_another_step_is_named", a_rank_at_another_step_is_named),
    ("a_rank_with_other_sizes_is_named", a_rank_with_other_sizes_is_named),
    ("a_rank_at_another_collective_is_named", a_rank_at_another_collective_is_named),
    (
        "a_rank_at_another_step_is_named_while_ranks_compute",
        a_rank_at_another_step_is_named_while_ranks_compute,
    ),
    ("whoever_waits_for_the_stream_is_freed", whoever_waits_for_the_stream_is_freed),
    ("an_error_of_nccl_comes_up", an_error_of_nccl_comes_up),
    (
        "rows_that_do_not_fit_are_refused_and_the_group_goes_on",
        rows_that_do_not_fit_are_refused_and_the_group_goes_on,
    ),
    ("a_panic_meanwhile_leaves_the_streams_in_order", a_panic_meanwhile_leaves_the_streams_in_order),
];

fn what_is_no_nccl_is_said_so() {
    // SAFETY: there is no such file, so nothing of it is called.
    let missing = unsafe { Nccl::open("/nowhere/libnccl.so.2") }.err();
    let Some(NcclError::Missing { reason }) = missing else { panic!("{missing:?}") };
    assert!(reason.contains("/nowhere/libnccl.so.2"), "{reason}");
    // SAFETY: it lacks NCCL's functions, so none is called.
    let other = unsafe { Nccl::open("libm.so.6") }.err();
    let Some(NcclError::Missing { reason }) = other else { panic!("{other:?}") };
    assert!(reason.contains("nccl"), "{reason}");
}

fn an_old_nccl_is_said_so() {
    let set: SetVersion = pretend("pretend_version");
    nccl();
    // SAFETY: gpu.c's. Only opening looks at the version.
    unsafe { set(21_205) };
    let old = Nccl::load().err();
    // SAFETY: as above.
    unsafe { set(22_907) };
    assert_eq!(old, Some(NcclError::TooOld { given: 21_205 }));
    assert_eq!(old.unwrap().to_string(), "this is NCCL 2.12.5, expected 2.14 or newer");
    assert_eq!(nccl().version(), Ok(22_907));
}

fn streams_of_two_gpus_are_refused() {
    let (first, second) = (Gpu::new(0), Gpu::new(1));
    let streams = Streams { compute: &first.compute, transfers: &second.compute };
    let id = UniqueId::new(nccl()).unwrap();
    let error = NcclRanks::new(nccl(), id, 0, &agreement(1), streams, LONG).err();
    let what = "the stream for transfers";
    assert_eq!(error, Some(NcclError::AnotherDevice { what, given: 1, expected: 0 }));
}

fn ranks_outside_the_group_are_refused() {
    let (gpu, id) = (Gpu::new(0), UniqueId::new(nccl()).unwrap());
    let outside = RanksError::Step(StepError::RankOutOfRange { rank: 2, ranks: 2 });
    assert_eq!(gpu.join(id, 2, &agreement(2)).err(), Some(outside.into()));
    let none = RanksError::Step(StepError::ZeroRanks);
    assert_eq!(gpu.join(id, 0, &agreement(0)).err(), Some(none.into()));
}

fn ranks_that_were_given_something_else_are_named() {
    let lengths: &[u32] = &[1, 4, 10];
    let disagreements = [
        (Field::Lengths, Agreement::new(&Plan::new(lengths, 6).unwrap(), &attention(), DType::F32, 3)),
        (
            Field::MicroSequenceLength,
            Agreement::new(&Plan::new(&LENGTHS, 5).unwrap(), &attention(), DType::F32, 3),
        ),
        (Field::DType, Agreement::new(&plan(), &attention(), DType::Bf16, 3)),
    ];
    for (expected, agreed) in disagreements {
        let errors = each_rank(3, |gpu, id, rank| {
            let agreed = if rank == 2 { agreed } else { agreement(3) };
            gpu.join(id, rank, &agreed).err()
        });
        for (rank, error) in errors.into_iter().enumerate() {
            let Some(NcclError::Ranks(RanksError::Differs { rank: named, field, .. })) = error else {
                panic!("rank {rank}: {error:?}")
            };
            assert_eq!((named == 2, field), (rank != 2, expected));
        }
    }
}

fn a_rank_that_does_not_come_to_the_making_is_an_error() {
    let (gpu, id) = (Gpu::new(0), UniqueId::new(nccl()).unwrap());
    let error = NcclRanks::new(nccl(), id, 0, &agreement(2), gpu.streams(), SHORT).err();
    assert_eq!(error, Some(RanksError::Stuck { occasion: Occasion::Making, waited: SHORT }.into()));
}

/// The call of an error, on which the rest is stuck.
fn stuck(error: NcclError) -> Call {
    match error {
        NcclError::Ranks(RanksError::Stuck { occasion: Occasion::Call(call), .. }) => call,
        error => panic!("{error}"),
    }
}

fn a_rank_that_does_not_come_is_an_error() {
    let barrier = std::sync::Barrier::new(2);
    each_member(2, |gpu, mut group| {
        if group.rank() == 0 {
            group.set_timeout(SHORT);
            // The host does not wait, so the error may come up here or later.
            let error = gpu.gather(&mut group, &step(1), 5).and_then(|()| group.finish()).unwrap_err();
            let call = stuck(error.clone());
            assert_eq!((call.collective, call.step, call.layer), (Collective::Gather, 1, 5));
            // From then on the same.
            assert_eq!(gpu.gather(&mut group, &step(1), 5), Err(error.clone()));
            assert_eq!(group.finish(), Err(error));
        }
        barrier.wait();
    });
}

fn a_rank_that_leaves_in_mid_step_is_an_error() {
    each_member(3, |gpu, mut group| {
        gpu.gather(&mut group, &step(0), 0).unwrap();
        group.finish().unwrap();
        if group.rank() != 1 {
            group.set_timeout(SHORT);
            let result = gpu.gather(&mut group, &step(1), 0).and_then(|()| group.finish());
            assert_eq!(stuck(result.unwrap_err()).step, 1);
        }
    });
}

/// Rank 1 makes another collective; what the ranks say, here and there.
fn at_odds(other: impl Fn(&Gpu, &mut NcclRanks) -> Result<(), NcclError> + Sync) -> Vec<(Call, Call)> {
    each_member(3, |gpu, mut group| {
        let started = match group.rank() {
            1 => other(gpu, &mut group),
            _ => gpu.gather(&mut group, &step(0), 0),
        };
        match started.and_then(|()| group.finish()).unwrap_err() {
            NcclError::Ranks(RanksError::OtherCall { rank, there, here }) => {
                assert_eq!(rank == 1, group.rank() != 1);
                (here, there)
            }
            error => panic!("{error}"),
        }
    })
}

/// As many rows, so NCCL itself sees nothing wrong.
fn a_rank_at_another_step_is_named() {
    let calls = at_odds(|gpu, group| gpu.gather(group, &step(1), 0));
    assert_eq!((calls[0].0.step, calls[0].1.step), (0, 1));
    assert_eq!((calls[1].0.step, calls[1].1.step), (1, 0));
    let calls = at_odds(|gpu, group| gpu.gather(group, &step(0), 7));
    assert_eq!((calls[2].0.layer, calls[2].1.layer), (0, 7));
}

/// What ranks say does not wait for what they compute.
fn a_rank_at_another_step_is_named_while_ranks_compute() {
    let hold: unsafe extern "C" fn(*mut c_void) -> *mut c_void = pretend("pretend_hold");
    let release: unsafe extern "C" fn(*mut c_void) = pretend("pretend_release");
    each_member(3, |gpu, mut group| {
        let layout = attention().kv_layout(6);
        let mut memory = gpu.filled(layout, |_| 1.0);
        // SAFETY: gpu.c's; the stream lives.
        let held = unsafe { hold(gpu.compute.stream().as_raw()) };
        let own = usize::from(group.rank() == 1);
        let started = group.gather(0, &step(own), packed(&mut memory, layout), || ());
        let error = started.and_then(|()| group.finish()).unwrap_err();
        let NcclError::Ranks(RanksError::OtherCall { there, here, .. }) = error else { panic!("{error}") };
        assert_eq!((here.step as usize, here.step != there.step), (own, true));
        // SAFETY: held above, released once.
        unsafe { release(held) };
        gpu.compute.stream().synchronise().unwrap();
    });
}

/// Rows of another number, which NCCL would wait for without end.
fn a_rank_with_other_sizes_is_named() {
    let calls = at_odds(|gpu, group| gpu.gather(group, &step(2), 0));
    assert_eq!((calls[0].0.end, calls[0].1.end), (6, 15));
}

fn a_rank_at_another_collective_is_named() {
    let calls = at_odds(|gpu, group| {
        let layout = attention().kv_layout(6);
        let mut memory = gpu.filled(layout, |_| 1.0);
        group.reduce(0, &step(0), packed(&mut memory, layout), || ())
    });
    assert_eq!((calls[0].0.collective, calls[0].1.collective), (Collective::Gather, Collective::Reduce));
}

/// A runtime that waits for its stream, not for the group: the rank that does not come is found all the
/// same, and the stream goes on.
fn whoever_waits_for_the_stream_is_freed() {
    let barrier = std::sync::Barrier::new(2);
    each_member(2, |gpu, mut group| {
        if group.rank() == 0 {
            group.set_timeout(SHORT);
            let layout = attention().kv_layout(6);
            let mut memory = gpu.filled(layout, |_| 1.0);
            let _ = group.gather(0, &step(0), packed(&mut memory, layout), || ());
            gpu.compute.stream().synchronise().unwrap();
            assert_eq!(stuck(group.finish().unwrap_err()).step, 0);
        }
        barrier.wait();
    });
}

type Init = unsafe extern "C" fn(*mut *mut c_void, i32, [u64; 16], i32, *const [u32; 6]) -> i32;

fn an_error_of_nccl_comes_up() {
    let set: SetError = pretend("pretend_error");
    let init: Init = pretend("ncclCommInitRankConfig");
    let push: unsafe extern "C" fn(*mut c_void) -> i32 = pretend("cuCtxPushCurrent_v2");
    let id = UniqueId::new(nccl()).unwrap();
    let mut words = [0; 16];
    words
        .iter_mut()
        .zip(id.as_bytes().as_chunks::<8>().0)
        .for_each(|(to, bytes)| *to = u64::from_ne_bytes(*bytes));
    let (gpu, mut raw) = (Gpu::new(0), core::ptr::null_mut());
    // SAFETY: gpu.c's; contexts are the numbers of their devices, and one.
    let made = unsafe {
        push(core::ptr::without_provenance_mut(1));
        init(&mut raw, 1, words, 0, &[24, 0, 0xcafe_beef, 21_400, 1, 0])
    };
    assert_eq!(made, 0);
    // SAFETY: made above, and used by nothing else.
    let group = unsafe { NcclRanks::from_raw(nccl(), raw, &agreement(1), gpu.streams(), LONG) };
    let mut group = group.unwrap().through_nccl();
    gpu.gather(&mut group, &step(0), 0).unwrap();
    group.finish().unwrap();
    // SAFETY: gpu.c's; the communicator lives.
    unsafe { set(raw, 6) };
    let error = gpu.gather(&mut group, &step(1), 0).and_then(|()| group.finish()).unwrap_err();
    let NcclError::Nccl { code: 6, reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("remote process") && reason.contains("pretended detail"), "{reason}");
    assert_eq!(group.finish(), Err(error));
    // A communicator for another number of ranks, too.
    // SAFETY: as above.
    unsafe { set(raw, 0) };
    // SAFETY: as above.
    let other = unsafe { NcclRanks::from_raw(nccl(), raw, &agreement(2), gpu.streams(), LONG) };
    assert_eq!(other.err(), Some(RanksError::Size { agreed: 2, size: 1 }.into()));
}

fn rows_that_do_not_fit_are_refused_and_the_group_goes_on() {
    each_member(2, |gpu, mut group| {
        let short = attention().kv_layout(5);
        let mut memory = gpu.filled(attention().kv_layout(40), |_| 0.5);
        let result = group.gather(0, &step(0), packed(&mut memory, short), || panic!("the work was done"));
        let shape = ShapeError::Rows { operand: microseq_core::Operand::K, expected: 6, given: 5 };
        assert_eq!(result, Err::<(), _>(RanksError::Shape(shape).into()));
        let gaps = attention().kv_layout(6).with_row_stride(11);
        let result = group.reduce(0, &step(0), packed(&mut memory, gaps), || panic!("the work was done"));
        let Err::<(), _>(NcclError::Ranks(RanksError::NotDense { row_stride: 11, .. })) = result else {
            panic!("{result:?}")
        };
        assert!(memory.download().unwrap().iter().all(|&x| x == 0.5));
        gpu.gather(&mut group, &step(0), 0).unwrap();
        group.finish().unwrap();
    });
}

fn a_panic_meanwhile_leaves_the_streams_in_order() {
    each_member(2, |gpu, mut group| {
        let layout = attention().kv_layout(6);
        let own = group.rank() * 3 * 8..(group.rank() + 1) * 3 * 8;
        let mut memory = gpu.filled(layout, |n| if own.contains(&n) { n as f32 } else { f32::NAN });
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Not through the panic hook: it would print.
            group.gather(0, &step(0), packed(&mut memory, layout), || std::panic::resume_unwind(Box::new(())))
        }));
        assert!(unwound.is_err());
        // The stream that is computed on comes behind the rows.
        assert!(memory.download().unwrap().iter().enumerate().all(|(n, &x)| x == n as f32));
    });
}
